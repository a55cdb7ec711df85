//! The head machine: reads the bytes of one connection as they stream, finds
//! every head through the framing of the bodies between, and refuses what a
//! stricter or a laxer reader could understand in another way.
//!
//! Pure: no socket, no clock. The same bytes give the same verdict however
//! they are cut into reads. Never more than one head, one chunk line or one
//! trailer section is held back. Rules: RFC 9112, always the strict reading.

mod head;
#[cfg(test)]
mod tests;

use faas_model::Reason;

use self::head::{Facts, Framing};

/// The bounds of a message's head.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Longest target, in bytes.
    pub(super) uri_bytes_max: usize,
    /// Largest header section, in bytes, line ends included.
    pub(super) header_bytes_max: usize,
    /// Most header fields.
    pub(super) headers_max: usize,
}

/// Longest chunk line, in bytes without its line end.
const CHUNK_LINE_MAX: usize = 256;
/// Chunk extensions of one body, in bytes.
const EXTENSIONS_MAX: usize = 4 << 10;
/// Largest trailer section; below hyper's own bound, so that hyper never refuses first.
const TRAILER_BYTES_MAX: usize = 8 << 10;
/// Longest method plus what else stands in a request line beside the target.
const REQUEST_LINE_REST_MAX: usize = 64;

/// Why a message is refused. Nothing after it on the connection is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Refusal {
    /// The reason, which says the status.
    pub(super) reason: Reason,
    /// What is wrong, for people.
    pub(super) detail: &'static str,
}

impl Refusal {
    const fn bad(detail: &'static str) -> Self {
        Self { reason: Reason::BadRequest, detail }
    }
}

/// Where in a message the next byte belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// In a head, or before one.
    Head,
    /// In a body of known length, this many bytes before its end.
    Length(u64),
    /// Before or in a chunk's size line.
    ChunkLine,
    /// In a chunk, this many bytes before its end.
    ChunkData(u64),
    /// Before the line end that closes a chunk.
    ChunkEnd,
    /// In the trailer section.
    Trailers,
    /// After a refusal.
    Refused {
        /// The verdict.
        refusal: Refusal,
        /// Whether it fell within a body.
        in_body: bool,
    },
}

/// What the machine waits for; decides which time bound runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// The next head; none of it has come.
    Idle,
    /// The rest of a head.
    Head,
    /// The rest of a body.
    Body,
    /// Nothing: the connection is refused.
    Refused,
}

/// The outcome of one step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Step {
    /// How many of the given bytes are in order and may be passed on.
    pub(super) accepted: usize,
    /// The verdict on what follows them.
    pub(super) refusal: Option<Refusal>,
}

/// The state of one connection.
#[derive(Debug)]
pub(super) struct Machine {
    limits: Limits,
    state: State,
    /// The scan of a head or trailer section, relative to the first byte not yet accepted.
    scan: Scan,
    /// Chunk extension bytes of the current body.
    extensions: usize,
    /// Complete heads so far.
    heads: u64,
    /// Whether the current head follows an empty line already.
    empty_line: bool,
}

/// How far the lines of a section have been read.
#[derive(Debug, Default)]
struct Scan {
    /// The next byte to look at.
    at: usize,
    /// Where the current line starts.
    line: usize,
    /// Bytes of the request line with its end; 0 before it has ended.
    request_line: usize,
    facts: Facts,
}

impl Machine {
    /// Returns the machine of a fresh connection.
    pub(super) fn new(limits: Limits) -> Self {
        Self { limits, state: State::Head, scan: Scan::default(), extensions: 0, heads: 0, empty_line: false }
    }

    /// Returns how many complete heads have been accepted.
    pub(super) fn heads(&self) -> u64 {
        self.heads
    }

    /// Returns what the machine waits for.
    pub(super) fn phase(&self) -> Phase {
        match self.state {
            State::Head if self.scan.at == 0 && !self.empty_line => Phase::Idle,
            State::Head => Phase::Head,
            State::Refused { .. } => Phase::Refused,
            _ => Phase::Body,
        }
    }

    /// Refuses what comes next, for a reason the bytes do not show.
    pub(super) fn refuse(&mut self, refusal: Refusal) {
        self.state = State::Refused { refusal, in_body: self.phase() == Phase::Body };
    }

    /// Returns the verdict, if there is one.
    pub(super) fn refusal(&self) -> Option<Refusal> {
        match self.state {
            State::Refused { refusal, .. } => Some(refusal),
            _ => None,
        }
    }

    /// Returns whether the verdict fell within a body, whose head is passed on already.
    pub(super) fn refused_in_body(&self) -> bool {
        matches!(self.state, State::Refused { in_body: true, .. })
    }

    /// Reads `pending`: every byte not yet accepted, those of earlier calls first.
    pub(super) fn step(&mut self, pending: &[u8]) -> Step {
        let mut accepted = 0;
        loop {
            let rest = pending.get(accepted..).unwrap_or_default();
            if let Some(refusal) = self.refusal() {
                return Step { accepted, refusal: Some(refusal) };
            }
            if rest.is_empty() {
                return Step { accepted, refusal: None };
            }
            match self.advance(rest) {
                Ok(0) => return Step { accepted, refusal: None },
                Ok(n) => accepted += n,
                Err(refusal) => self.refuse(refusal),
            }
        }
    }

    /// Accepts the next piece of a message; 0 means more bytes are needed.
    fn advance(&mut self, rest: &[u8]) -> Result<usize, Refusal> {
        match self.state {
            State::Head => self.head(rest),
            State::Length(left) => Ok(self.counted(rest, left, State::Length, State::Head)),
            State::ChunkLine => self.chunk_line(rest),
            State::ChunkData(left) => Ok(self.counted(rest, left, State::ChunkData, State::ChunkEnd)),
            State::ChunkEnd => match rest {
                [b'\r', b'\n', ..] => {
                    self.state = State::ChunkLine;
                    Ok(2)
                }
                [b'\r'] => Ok(0),
                _ => Err(Refusal::bad("a chunk is longer than its size says")),
            },
            State::Trailers => self.trailers(rest),
            State::Refused { refusal, .. } => Err(refusal),
        }
    }

    /// Accepts bytes of a piece whose length is known.
    fn counted(&mut self, rest: &[u8], left: u64, more: fn(u64) -> State, then: State) -> usize {
        let taken = usize::try_from(left).map_or(rest.len(), |left| left.min(rest.len()));
        let left = left - taken as u64;
        self.state = if left == 0 { then } else { more(left) };
        taken
    }

    /// Reads a head line by line; accepts it whole.
    fn head(&mut self, rest: &[u8]) -> Result<usize, Refusal> {
        if let Some(accepted) = self.leading_line(rest)? {
            return Ok(accepted);
        }
        if self.scan.request_line == 0 {
            let window = self.limits.uri_bytes_max + REQUEST_LINE_REST_MAX;
            let Some(line) = self.scan.next_line(rest, window)? else {
                return if rest.len() < window { Ok(0) } else { Err(head::too_long_request_line(rest)) };
            };
            self.scan.facts.request_line(line, self.limits.uri_bytes_max)?;
            self.scan.request_line = self.scan.at;
        }
        // Room for the section and for the empty line that ends it.
        let window = self.scan.request_line + self.limits.header_bytes_max + 2;
        loop {
            match self.scan.next_line(rest, window)? {
                None if rest.len() < window => return Ok(0),
                None => return Err(HEADERS_TOO_LARGE),
                Some([]) => break,
                Some(line) => self.scan.facts.header(line)?,
            }
            if self.scan.facts.fields > self.limits.headers_max {
                return Err(TOO_MANY_HEADERS);
            }
        }
        let (framing, accepted) = (self.scan.facts.finish()?, self.scan.at);
        self.begin_body(framing);
        Ok(accepted)
    }

    /// One empty line may stand before a request line (RFC 9112 §2.2), no more.
    fn leading_line(&mut self, rest: &[u8]) -> Result<Option<usize>, Refusal> {
        match rest {
            [b'\r', ..] if self.empty_line => Err(Refusal::bad("empty lines stand before the request line")),
            [b'\r', b'\n', ..] => {
                self.empty_line = true;
                self.scan = Scan::default();
                Ok(Some(2))
            }
            _ => Ok(None),
        }
    }

    fn begin_body(&mut self, framing: Framing) {
        self.scan = Scan::default();
        self.empty_line = false;
        self.extensions = 0;
        self.heads += 1;
        self.state = match framing {
            Framing::Length(0) => State::Head,
            Framing::Length(left) => State::Length(left),
            Framing::Chunked => State::ChunkLine,
        };
    }

    /// Reads a chunk's size line; accepts it whole.
    fn chunk_line(&mut self, rest: &[u8]) -> Result<usize, Refusal> {
        let window = CHUNK_LINE_MAX + 2;
        let Some(line) = self.scan.next_line(rest, window)? else {
            return if rest.len() < window { Ok(0) } else { Err(Refusal::bad("a chunk line is over 256 bytes")) };
        };
        let digits = line.iter().take_while(|b| b.is_ascii_hexdigit()).count();
        let (size, extension) = line.split_at(digits);
        if !(1..=15).contains(&digits) || !matches!(extension, [] | [b';', ..]) {
            return Err(Refusal::bad("a chunk size is not 1 to 15 hex digits"));
        }
        self.extensions += extension.len();
        if self.extensions > EXTENSIONS_MAX {
            return Err(Refusal::bad("the chunk extensions are over 4096 bytes"));
        }
        let size = size.iter().fold(0_u64, |n, b| (n << 4) | u64::from(char::from(*b).to_digit(16).unwrap_or(0)));
        let accepted = self.scan.at;
        self.scan = Scan::default();
        self.state = if size == 0 { State::Trailers } else { State::ChunkData(size) };
        Ok(accepted)
    }

    /// Reads the trailer section line by line; accepts it whole.
    fn trailers(&mut self, rest: &[u8]) -> Result<usize, Refusal> {
        let window = TRAILER_BYTES_MAX + 2;
        loop {
            match self.scan.next_line(rest, window)? {
                None if rest.len() < window => return Ok(0),
                None => return Err(TRAILERS_TOO_LARGE),
                Some([]) => break,
                Some(line) => self.scan.facts.trailer(line)?,
            }
            if self.scan.facts.fields > self.limits.headers_max {
                return Err(TOO_MANY_HEADERS);
            }
        }
        let accepted = self.scan.at;
        self.scan = Scan::default();
        self.state = State::Head;
        Ok(accepted)
    }
}

const HEADERS_TOO_LARGE: Refusal =
    Refusal { reason: Reason::HeadersTooLarge, detail: "the header section is over the bound header_bytes_max" };
const TRAILERS_TOO_LARGE: Refusal =
    Refusal { reason: Reason::HeadersTooLarge, detail: "the trailer section is over 8192 bytes" };
const TOO_MANY_HEADERS: Refusal =
    Refusal { reason: Reason::HeadersTooLarge, detail: "there are more fields than the bound headers_max" };

impl Scan {
    /// Returns the next line of `bytes` that ends within the first `window` bytes, without its CR LF.
    fn next_line<'a>(&mut self, bytes: &'a [u8], window: usize) -> Result<Option<&'a [u8]>, Refusal> {
        let seen = bytes.get(self.at..window.min(bytes.len())).unwrap_or_default();
        let plain = head::text_bytes(seen);
        self.at += plain;
        match seen.get(plain..).unwrap_or_default() {
            // A CR at the end of what has come waits for its LF.
            [] | [b'\r'] => Ok(None),
            [b'\r', b'\n', ..] => {
                let line = bytes.get(self.line..self.at).unwrap_or_default();
                self.at += 2;
                self.line = self.at;
                Ok(Some(line))
            }
            [b'\r', ..] => Err(Refusal::bad("a CR stands without its LF")),
            [b'\n', ..] => Err(Refusal::bad("a line ends with a bare LF")),
            [0x80..=0xff, ..] => Err(Refusal::bad("the head holds a byte outside ASCII")),
            _ => Err(Refusal::bad("the head holds a control character")),
        }
    }
}

//! The lines of a head: request line, fields, and what they say about the body.

use faas_model::Reason;

use super::Refusal;

/// Longest method.
const METHOD_MAX: usize = 16;
/// The methods that functions may be called with.
const METHODS: [&[u8]; 7] = [b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"PATCH", b"OPTIONS"];

/// How the body after a head is framed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    /// This many bytes.
    Length(u64),
    /// Chunks.
    Chunked,
}

/// What the lines so far have said.
#[derive(Debug, Default)]
pub(super) struct Facts {
    /// Fields so far.
    pub(super) fields: usize,
    http_10: bool,
    host: bool,
    length: Option<u64>,
    chunked: bool,
}

impl Facts {
    /// Reads `method SP target SP version`.
    pub(super) fn request_line(&mut self, line: &[u8], uri_bytes_max: usize) -> Result<(), Refusal> {
        let mut parts = line.split(|b| *b == b' ');
        let (Some(method), Some(target), Some(version), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(Refusal::bad("the request line is not \"METHOD /target HTTP/1.1\""));
        };
        if method.is_empty() || !method.iter().all(|b| is_token(*b)) {
            return Err(Refusal::bad("the method is not a token"));
        }
        if target.len() > uri_bytes_max {
            return Err(URI_TOO_LONG);
        }
        self.http_10 = version_is_10(version)?;
        check_method(method)?;
        check_target(target)
    }

    /// Reads one field of the header section.
    pub(super) fn header(&mut self, line: &[u8]) -> Result<(), Refusal> {
        let (name, value) = self.field(line)?;
        let is = |other: &[u8]| name.eq_ignore_ascii_case(other);
        match name.len() {
            4 if is(b"host") => self.host(value),
            6 if is(b"expect") && !value.eq_ignore_ascii_case(b"100-continue") => {
                Err(Refusal::bad("Expect is something else than 100-continue"))
            }
            14 if is(b"content-length") => self.content_length(value),
            17 if is(b"transfer-encoding") => self.transfer_encoding(value),
            _ => Ok(()),
        }
    }

    /// Reads one field of a trailer section, where nothing may change the framing.
    pub(super) fn trailer(&mut self, line: &[u8]) -> Result<(), Refusal> {
        let (name, _) = self.field(line)?;
        let forbidden = ["host", "content-length", "transfer-encoding", "trailer", "connection"];
        if forbidden.iter().any(|f| name.eq_ignore_ascii_case(f.as_bytes())) {
            return Err(Refusal::bad("a trailer carries a field of framing or routing"));
        }
        Ok(())
    }

    /// Returns the framing of the body, once all fields are read.
    pub(super) fn finish(&self) -> Result<Framing, Refusal> {
        match (self.host, self.chunked, self.length) {
            (false, _, _) => Err(Refusal::bad("there is no Host")),
            (_, true, Some(_)) => Err(Refusal::bad("Content-Length stands beside Transfer-Encoding")),
            (_, true, None) => Ok(Framing::Chunked),
            (_, false, length) => Ok(Framing::Length(length.unwrap_or(0))),
        }
    }

    /// Splits `name: value`.
    fn field<'a>(&mut self, line: &'a [u8]) -> Result<(&'a [u8], &'a [u8]), Refusal> {
        self.fields += 1;
        if matches!(line, [b' ' | b'\t', ..]) {
            return Err(Refusal::bad("a header line is folded"));
        }
        let colon = line.iter().position(|b| *b == b':').ok_or(Refusal::bad("a header line has no colon"))?;
        let (name, value) = line.split_at(colon);
        match name {
            [] => Err(Refusal::bad("a header name is empty")),
            [.., b' ' | b'\t'] => Err(Refusal::bad("white space stands before a colon")),
            name if !name.iter().all(|b| is_token(*b)) => Err(Refusal::bad("a header name is not a token")),
            name => Ok((name, value.get(1..).unwrap_or_default().trim_ascii())),
        }
    }

    fn host(&mut self, value: &[u8]) -> Result<(), Refusal> {
        if std::mem::replace(&mut self.host, true) {
            return Err(Refusal::bad("there is more than one Host"));
        }
        if host_is_valid(value) { Ok(()) } else { Err(Refusal::bad("Host is not one name or address")) }
    }

    fn content_length(&mut self, value: &[u8]) -> Result<(), Refusal> {
        if !(1..=18).contains(&value.len()) || !value.iter().all(u8::is_ascii_digit) {
            return Err(Refusal::bad("Content-Length is not 1 to 18 digits"));
        }
        let length = value.iter().fold(0_u64, |n, b| n * 10 + u64::from(b - b'0'));
        match self.length.replace(length) {
            None => Ok(()),
            Some(_) => Err(Refusal::bad("there is more than one Content-Length")),
        }
    }

    fn transfer_encoding(&mut self, value: &[u8]) -> Result<(), Refusal> {
        if self.http_10 {
            return Err(Refusal::bad("HTTP/1.0 has no Transfer-Encoding"));
        }
        if std::mem::replace(&mut self.chunked, true) || !value.eq_ignore_ascii_case(b"chunked") {
            return Err(Refusal::bad("Transfer-Encoding is not exactly one \"chunked\""));
        }
        Ok(())
    }
}

const URI_TOO_LONG: Refusal =
    Refusal { reason: Reason::UriTooLong, detail: "the target is over the bound uri_bytes_max" };

/// Says what is too long in a request line that does not end within its bound.
pub(super) fn too_long_request_line(seen: &[u8]) -> Refusal {
    match seen.iter().position(|b| *b == b' ') {
        Some(1..=METHOD_MAX) => URI_TOO_LONG,
        _ => Refusal::bad("the request line is too long and has no method"),
    }
}

fn version_is_10(version: &[u8]) -> Result<bool, Refusal> {
    match version {
        b"HTTP/1.1" => Ok(false),
        b"HTTP/1.0" => Ok(true),
        [b'H', b'T', b'T', b'P', b'/', major, b'.', minor] if major.is_ascii_digit() && minor.is_ascii_digit() => {
            Err(Refusal { reason: Reason::VersionNotSupported, detail: "only HTTP/1.1 and HTTP/1.0 are spoken here" })
        }
        _ => Err(Refusal::bad("the request line does not end with an HTTP version")),
    }
}

fn check_method(method: &[u8]) -> Result<(), Refusal> {
    match method {
        m if METHODS.contains(&m) => Ok(()),
        b"CONNECT" | b"TRACE" => Err(Refusal { reason: Reason::Method, detail: "CONNECT and TRACE are not offered" }),
        _ => Err(Refusal { reason: Reason::NotImplemented, detail: "the method is not known here" }),
    }
}

fn check_target(target: &[u8]) -> Result<(), Refusal> {
    if target.first() != Some(&b'/') {
        return Err(Refusal::bad("the target is not in origin form, that is a path from \"/\""));
    }
    let path = target.iter().position(|b| *b == b'?').unwrap_or(target.len());
    let (path, query) = target.split_at(path);
    if path.iter().all(|b| class(*b) & PATH != 0) && query.iter().all(|b| class(*b) & QUERY != 0) {
        Ok(())
    } else {
        Err(Refusal::bad("the target holds a character that must be percent-encoded"))
    }
}

/// One host (RFC 3986 §3.2.2, without percent-encoding) with an optional port.
fn host_is_valid(value: &[u8]) -> bool {
    if value.len() > 261 {
        return false;
    }
    let (host, port) = match value {
        [b'[', rest @ ..] => match rest.iter().position(|b| *b == b']') {
            Some(end) => {
                let (address, port) = rest.split_at(end);
                let text = std::str::from_utf8(address).unwrap_or_default();
                (text.parse::<std::net::Ipv6Addr>().is_ok(), port.get(1..).unwrap_or_default())
            }
            None => return false,
        },
        _ => {
            let end = value.iter().position(|b| *b == b':').unwrap_or(value.len());
            let (name, port) = value.split_at(end);
            let plain = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
            (!name.is_empty() && name.iter().all(plain), port)
        }
    };
    let port_valid = match port {
        [] => true,
        [b':', digits @ ..] => {
            let number = || digits.iter().fold(0_u32, |n, b| n * 10 + u32::from(b - b'0'));
            (1..=5).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit) && number() <= 65_535
        }
        _ => false,
    };
    host && port_valid
}

const TEXT: u8 = 1;
const TOKEN: u8 = 2;
const PATH: u8 = 4;
const QUERY: u8 = 8;

/// What each byte may stand in.
#[expect(clippy::indexing_slicing, reason = "the loop ends at the table's length")]
static CLASS: [u8; 256] = {
    let mut table = [0_u8; 256];
    let mut byte = 0_usize;
    while byte < 256 {
        #[expect(clippy::cast_possible_truncation, reason = "byte is below 256")]
        let b = byte as u8;
        let text = b == b'\t' || matches!(b, 0x20..=0x7e);
        let token = b.is_ascii_alphanumeric()
            || matches!(
                b,
                b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~'
            );
        // What browsers and clients leave unencoded in a query is let pass; nothing that ends a target is.
        let query = matches!(b, 0x21..=0x7e) && !matches!(b, b'"' | b'#' | b'<' | b'>');
        let path = query && !matches!(b, b'\\' | b'^' | b'`' | b'{' | b'|' | b'}');
        table[byte] = (text as u8) * TEXT + (token as u8) * TOKEN + (path as u8) * PATH + (query as u8) * QUERY;
        byte += 1;
    }
    table
};

#[inline]
#[expect(clippy::indexing_slicing, reason = "the table has an entry for every byte")]
fn class(b: u8) -> u8 {
    CLASS[usize::from(b)]
}

/// Returns how many bytes from the start may stand in a line: HTAB, SP and visible ASCII.
pub(super) fn text_bytes(bytes: &[u8]) -> usize {
    // Whole blocks without a branch per byte, which the compiler turns into vector code.
    let visible = |block: &&[u8]| block.iter().fold(true, |all, b| all & (b.wrapping_sub(0x20) < 0x5f));
    let whole = bytes.chunks_exact(16).take_while(visible).count() * 16;
    let rest = bytes.get(whole..).unwrap_or_default();
    whole + rest.iter().position(|b| class(*b) & TEXT == 0).unwrap_or(rest.len())
}

#[inline]
fn is_token(b: u8) -> bool {
    class(b) & TOKEN != 0
}

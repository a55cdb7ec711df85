//! What a request asks for: its path and query, checked.

use std::borrow::Cow;

use faas_model::{Name, Problem, Reason};
use http::{Method, Uri};
use percent_encoding::percent_decode_str;

use crate::answer::problem;

/// Most keys of a page, and how many without `limit`.
pub(crate) const LIMIT_MAX: u32 = 1_000;
const LIMIT_DEFAULT: u32 = 100;

/// One operation of the door.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Route<'a> {
    Get {
        bucket: Name,
        key: Cow<'a, str>,
    },
    Head {
        bucket: Name,
        key: Cow<'a, str>,
    },
    Put {
        bucket: Name,
        key: Cow<'a, str>,
    },
    Delete {
        bucket: Name,
        key: Cow<'a, str>,
    },
    /// `by` is in the query or in the body.
    Increment {
        bucket: Name,
        key: Cow<'a, str>,
        by: Option<i64>,
    },
    Batch {
        bucket: Name,
    },
    List {
        bucket: Name,
        prefix: String,
        limit: u32,
        after: Option<Vec<u8>>,
    },
}

impl<'a> Route<'a> {
    /// Reads the target.
    pub(crate) fn of(method: &Method, uri: &'a Uri) -> Result<Self, Refusal> {
        let Some(rest) = uri.path().strip_prefix("/kv/") else {
            return Err(problem(Reason::NotFound, "the door's paths are /kv/{bucket} and /kv/{bucket}/{key}").into());
        };
        let (bucket, key) = match rest.split_once('/') {
            None => (rest, None),
            Some((bucket, key)) => (bucket, Some(key)),
        };
        let bucket = Name::new(bucket).map_err(|error| bad(format!("bucket {error}")))?;
        match key {
            Some(key) => Self::of_key(method, bucket, decoded(key, false)?, uri),
            None => Self::of_bucket(method, bucket, uri),
        }
    }

    fn of_key(method: &Method, bucket: Name, key: Cow<'a, str>, uri: &Uri) -> Result<Self, Refusal> {
        if method == Method::POST {
            let [op, by] = query(uri, ["op", "by"])?;
            operation(op, "incr")?;
            let by = by.map(|by| by.parse().map_err(|_| bad(format!("by={by:?} is not a 64-bit integer"))));
            return Ok(Self::Increment { bucket, key, by: by.transpose()? });
        }
        let [] = query(uri, [])?;
        match *method {
            Method::GET => Ok(Self::Get { bucket, key }),
            Method::HEAD => Ok(Self::Head { bucket, key }),
            Method::PUT => Ok(Self::Put { bucket, key }),
            Method::DELETE => Ok(Self::Delete { bucket, key }),
            _ => Err(Refusal::Method("GET, HEAD, PUT, DELETE, POST")),
        }
    }

    fn of_bucket(method: &Method, bucket: Name, uri: &Uri) -> Result<Self, Refusal> {
        match *method {
            Method::POST => {
                let [op] = query(uri, ["op"])?;
                operation(op, "batch")?;
                Ok(Self::Batch { bucket })
            }
            Method::GET => {
                let [prefix, limit, after] = query(uri, ["prefix", "limit", "after"])?;
                Ok(Self::List {
                    bucket,
                    prefix: prefix.unwrap_or_default(),
                    limit: limit_of(limit)?,
                    after: after.map(|after| unhex(&after).ok_or_else(|| bad("after is not a cursor"))).transpose()?,
                })
            }
            _ => Err(Refusal::Method("GET, POST")),
        }
    }
}

/// Why a target is refused.
#[derive(Debug)]
pub(crate) enum Refusal {
    Problem(Box<Problem>),
    /// The methods that are allowed.
    Method(&'static str),
}

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        Self::Problem(Box::new(problem))
    }
}

fn bad(detail: impl Into<String>) -> Refusal {
    problem(Reason::BadRequest, detail).into()
}

fn operation(op: Option<String>, only: &str) -> Result<(), Refusal> {
    match op {
        Some(op) if op == only => Ok(()),
        Some(op) => Err(bad(format!("op={op:?} is not known here: use op={only}"))),
        None => Err(bad(format!("POST needs ?op={only}"))),
    }
}

fn limit_of(limit: Option<String>) -> Result<u32, Refusal> {
    let Some(text) = limit else { return Ok(LIMIT_DEFAULT) };
    match text.parse() {
        Ok(limit) if (1..=LIMIT_MAX).contains(&limit) => Ok(limit),
        _ => Err(bad(format!("limit={text:?} is not a number of 1 to {LIMIT_MAX}"))),
    }
}

/// Reads the query's parameters; unknown and doubled ones are refused.
fn query<const N: usize>(uri: &Uri, names: [&str; N]) -> Result<[Option<String>; N], Refusal> {
    let mut values = [const { None }; N];
    for pair in uri.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let slot = names.iter().position(|known| *known == name).and_then(|at| values.get_mut(at));
        match slot {
            Some(slot @ None) => *slot = Some(decoded(value, true)?.into_owned()),
            Some(Some(_)) => return Err(bad(format!("the parameter {name:?} is there twice"))),
            None => return Err(bad(format!("the parameter {name:?} is not known here"))),
        }
    }
    Ok(values)
}

/// Percent-decodes UTF-8, strictly, so that no two spellings but the encoded ones name one key.
fn decoded(text: &str, plus_is_blank: bool) -> Result<Cow<'_, str>, Refusal> {
    let broken = |at: usize| {
        let digits = text.as_bytes().get(at + 1..at + 3);
        !digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    };
    if text.bytes().enumerate().any(|(at, byte)| byte == b'%' && broken(at)) {
        return Err(bad("a '%' is not followed by two hexadecimal digits"));
    }
    let blank = plus_is_blank && text.contains('+');
    if !blank {
        return percent_decode_str(text).decode_utf8().map_err(|_| bad("a key is UTF-8, percent-encoded"));
    }
    let spaced = text.replace('+', " ");
    let decoded = percent_decode_str(&spaced).decode_utf8().map_err(|_| bad("a key is UTF-8, percent-encoded"))?;
    Ok(Cow::Owned(decoded.into_owned()))
}

/// Writes a cursor for a query.
pub(crate) fn hex(bytes: &[u8]) -> String {
    let digit = |nibble: u8| char::from_digit(nibble.into(), 16).unwrap_or('0');
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let (pairs, []) = text.as_bytes().as_chunks::<2>() else { return None };
    let nibble = |digit: u8| char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok());
    pairs.iter().map(|[high, low]| Some(nibble(*high)? << 4 | nibble(*low)?)).collect()
}

//! CloudEvents 1.0.2 as values: context attributes, the HTTP binary binding,
//! the JSON structured mode and the AMQP message headers that RabbitMQ users write.
//!
//! Bounds: at most [`ATTRIBUTES_MAX`] attributes, each value at most
//! [`VALUE_BYTES_MAX`] bytes, JSON at most [`JSON_DEPTH_MAX`] deep.

mod binary;
mod structured;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use http::{HeaderMap, header};

pub use binary::{decode_value, encode_value};
pub use structured::parse_structured;

/// Most context attributes of one event.
pub const ATTRIBUTES_MAX: usize = 64;
/// Longest value of one attribute, in bytes, before any encoding.
pub const VALUE_BYTES_MAX: usize = 4 << 10;
/// Deepest nesting of a structured event's JSON.
pub const JSON_DEPTH_MAX: usize = 64;
/// The one version of the specification that is spoken.
pub const SPECVERSION: &str = "1.0";
/// The prefix of attributes in HTTP headers and, as we emit them, in message headers.
pub const PREFIX: &str = "ce-";

/// The prefixes that message headers may carry, beside `ce-` those of the AMQP 1.0 binding.
const MESSAGE_PREFIXES: [&str; 3] = [PREFIX, "cloudEvents_", "cloudEvents:"];

/// The context attributes of an event (CloudEvents 1.0.2, "Context Attributes").
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Attributes {
    /// Unique within `source`.
    pub id: String,
    /// Where it happened, a URI reference.
    pub source: String,
    /// What happened.
    pub kind: String,
    /// About what, if said.
    pub subject: Option<String>,
    /// When, RFC 3339.
    pub time: Option<String>,
    /// The media type of the data; travels as `Content-Type`.
    pub datacontenttype: Option<String>,
    /// The schema of the data.
    pub dataschema: Option<String>,
    /// Extension attributes: names of 1 to 20 of `a-z0-9`.
    pub extensions: BTreeMap<String, String>,
}

/// Why something is no CloudEvent that we take.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EventError {
    /// A required attribute is not there.
    #[error("the event has no {0:?}: id, source, type and specversion are required")]
    Missing(&'static str),
    /// Another version of the specification.
    #[error("specversion {0:?} is not spoken: use \"1.0\"")]
    Version(String),
    /// An attribute name outside the grammar.
    #[error("attribute name {0:?} is not 1 to 20 of a-z and 0-9")]
    Name(String),
    /// The same attribute more than once.
    #[error("attribute {0:?} is there more than once")]
    Twice(String),
    /// A value that may not be.
    #[error("attribute {name:?} is not valid: {expected}")]
    Value {
        /// The attribute.
        name: String,
        /// What is allowed.
        expected: &'static str,
    },
    /// More attributes than allowed.
    #[error("the event has more than {ATTRIBUTES_MAX} attributes")]
    TooMany,
    /// Several events at once.
    #[error("batches of events are not taken: send one event")]
    Batch,
    /// A structured event whose document cannot be read.
    #[error("the structured event cannot be read: {0}")]
    Document(String),
}

/// How an HTTP request or a message carries an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// It is no CloudEvent.
    None,
    /// Attributes in headers, data in the body.
    Binary,
    /// All in the body.
    Structured,
    /// Several events in the body; not taken.
    Batch,
}

impl Mode {
    /// Returns the mode that a `Content-Type` declares: structured, batch or none.
    #[must_use]
    pub fn of_content_type(content_type: &[u8]) -> Self {
        const STRUCTURED: &[u8] = b"application/cloudevents";
        const BATCH: &[u8] = b"application/cloudevents-batch";
        let starts = |prefix: &[u8]| content_type.get(..prefix.len()).is_some_and(|h| h.eq_ignore_ascii_case(prefix));
        match (starts(BATCH), starts(STRUCTURED)) {
            (true, _) => Self::Batch,
            (_, true) => Self::Structured,
            _ => Self::None,
        }
    }

    /// Returns how a request with `headers` carries an event (HTTP binding §3).
    #[must_use]
    pub fn of_http(headers: &HeaderMap) -> Self {
        const REQUIRED: [&str; 4] = ["ce-specversion", "ce-id", "ce-source", "ce-type"];
        let declared = headers.get(header::CONTENT_TYPE).map_or(Self::None, |t| Self::of_content_type(t.as_bytes()));
        if declared == Self::None && REQUIRED.iter().all(|name| headers.contains_key(*name)) {
            return Self::Binary;
        }
        declared
    }
}

/// Returns whether a request with `headers` is one CloudEvent, binary or structured.
#[must_use]
pub fn is_cloud_event(headers: &HeaderMap) -> bool {
    matches!(Mode::of_http(headers), Mode::Binary | Mode::Structured)
}

/// Attributes as found, perhaps not all that an event needs.
///
/// Names and values are checked, completeness is not.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Partial(BTreeMap<String, String>);

impl Partial {
    /// Reads the attributes of message headers that start with `ce-`,
    /// `cloudEvents_` or `cloudEvents:`; other headers are passed over.
    ///
    /// # Errors
    /// [`EventError`] for a name or value out of bounds, or an attribute under two prefixes.
    pub fn from_message_headers<'a>(headers: impl IntoIterator<Item = (&'a str, String)>) -> Result<Self, EventError> {
        let mut found = Self::default();
        for (name, value) in headers {
            if let Some(attribute) = MESSAGE_PREFIXES.iter().find_map(|p| name.strip_prefix(p)) {
                found.add(attribute, value)?;
            }
        }
        Ok(found)
    }

    /// Returns the value of an attribute by its CloudEvents name (`id`, `type`, ...).
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// Returns whether there is no attribute at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns whether all required attributes are there: it is a CloudEvent.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        ["specversion", "id", "source", "type"].iter().all(|name| self.0.contains_key(*name))
    }

    /// Adds one attribute.
    ///
    /// # Errors
    /// [`EventError`] for a name or value out of bounds, or one that is already there.
    pub fn add(&mut self, name: &str, value: String) -> Result<(), EventError> {
        check_name(name)?;
        check_value(name, &value)?;
        if self.0.len() == ATTRIBUTES_MAX {
            return Err(EventError::TooMany);
        }
        match self.0.insert(name.to_owned(), value) {
            None => Ok(()),
            Some(_) => Err(EventError::Twice(name.to_owned())),
        }
    }

    /// Returns the event's attributes.
    ///
    /// # Errors
    /// [`EventError`] when a required attribute is missing or one is malformed.
    pub fn complete(mut self) -> Result<Attributes, EventError> {
        let mut required = |name: &'static str| self.0.remove(name).ok_or(EventError::Missing(name));
        let specversion = required("specversion")?;
        if specversion != SPECVERSION {
            return Err(EventError::Version(specversion.chars().take(20).collect()));
        }
        let (id, source, kind) = (required("id")?, required("source")?, required("type")?);
        let time = self.0.remove("time");
        if time.as_deref().is_some_and(|t| t.parse::<jiff::Timestamp>().is_err()) {
            return Err(EventError::Value {
                name: "time".into(),
                expected: "an RFC 3339 time such as 2026-01-31T12:00:00Z",
            });
        }
        let mut optional = |name: &str| self.0.remove(name);
        let (subject, datacontenttype) = (optional("subject"), optional("datacontenttype"));
        let dataschema = optional("dataschema");
        Ok(Attributes { id, source, kind, subject, time, datacontenttype, dataschema, extensions: self.0 })
    }
}

impl Attributes {
    /// Returns every attribute but `datacontenttype` by its CloudEvents name, `specversion` included.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        let fixed = [("specversion", SPECVERSION), ("id", &self.id), ("source", &self.source), ("type", &self.kind)];
        let optional = [("subject", &self.subject), ("time", &self.time), ("dataschema", &self.dataschema)];
        fixed
            .into_iter()
            .chain(optional.into_iter().filter_map(|(name, value)| value.as_deref().map(|v| (name, v))))
            .chain(self.extensions.iter().map(|(name, value)| (name.as_str(), value.as_str())))
    }

    /// Returns the message headers `ce-<name>` of the event; `datacontenttype`
    /// travels as the message's content type.
    pub fn message_headers(&self) -> impl Iterator<Item = (String, &str)> {
        self.iter().map(|(name, value)| (format!("{PREFIX}{name}"), value))
    }
}

/// Attribute names are 1 to 20 of `a-z0-9` (CloudEvents 1.0.2, "Naming Conventions").
fn check_name(name: &str) -> Result<(), EventError> {
    let valid = (1..=20).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    // `data` is the one reserved word: it names the body in the JSON format.
    if valid && name != "data" { Ok(()) } else { Err(EventError::Name(name.chars().take(80).collect())) }
}

/// Values are text without control characters; those that must not be empty are not.
fn check_value(name: &str, value: &str) -> Result<(), EventError> {
    let wrong = |expected| Err(EventError::Value { name: name.to_owned(), expected });
    let standard = ["id", "source", "type", "specversion", "subject", "dataschema", "datacontenttype"];
    match value {
        "" if standard.contains(&name) => wrong("it must not be empty"),
        v if v.len() > VALUE_BYTES_MAX => wrong("at most 4096 bytes"),
        v if v.chars().any(char::is_control) => wrong("no control characters"),
        _ => Ok(()),
    }
}

//! The brokers of the server configuration.

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroU16;

use faas_model::Name;
use faas_model::units::Millis;
use lapin::uri::{AMQPScheme, AMQPUri};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The message trigger: which brokers there are.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The brokers by the name that manifests say (`broker = "..."`); none by default. Since 0.1.
    pub brokers: BTreeMap<Name, Broker>,
}

/// One RabbitMQ broker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Broker {
    /// Where it is: `amqp://USER:PASSWORD@HOST:PORT/VHOST`, `amqps` for TLS with the system's root certificates.
    /// Since 0.1.
    pub url: BrokerUrl,
    /// Heartbeat of the connection in seconds, at least 1; a broker silent for twice as long is left. Default 10. Since
    /// 0.1.
    #[serde(default = "heartbeat_default")]
    pub heartbeat_s: NonZeroU16,
    /// Longest wait for a connection; default 5 s. Since 0.1.
    #[serde(default = "connect_timeout_default")]
    pub connect_timeout: Millis,
    /// First pause before a lost queue is opened again, at least 10 ms; each next doubles. Default 250 ms. Since 0.1.
    #[serde(default = "reconnect_min_default")]
    pub reconnect_min: Millis,
    /// Longest of these pauses; default 4 s. Since 0.1.
    #[serde(default = "reconnect_max_default")]
    pub reconnect_max: Millis,
    /// Longest wait for the confirm of a published message; default 30 s. Since 0.1.
    #[serde(default = "confirm_timeout_default")]
    pub confirm_timeout: Millis,
}

impl Broker {
    /// Returns the broker at `url` with every default.
    #[must_use]
    pub fn at(url: BrokerUrl) -> Self {
        Self {
            url,
            heartbeat_s: heartbeat_default(),
            connect_timeout: connect_timeout_default(),
            reconnect_min: reconnect_min_default(),
            reconnect_max: reconnect_max_default(),
            confirm_timeout: confirm_timeout_default(),
        }
    }
}

fn heartbeat_default() -> NonZeroU16 {
    const { NonZeroU16::new(10).expect("ten is not zero") }
}

fn connect_timeout_default() -> Millis {
    Millis::seconds(5)
}

fn reconnect_min_default() -> Millis {
    Millis(250)
}

fn reconnect_max_default() -> Millis {
    Millis::seconds(4)
}

fn confirm_timeout_default() -> Millis {
    Millis::seconds(30)
}

/// A broker's URL. Shown and written out, it has no password.
#[derive(Clone, PartialEq, Eq)]
pub struct BrokerUrl(AMQPUri);

/// Says that a URL names no broker; never quotes it, for it may hold a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the broker's url is not valid ({0}): write amqp://USER:PASSWORD@HOST:PORT/VHOST or amqps://...")]
pub struct BrokerUrlError(&'static str);

impl BrokerUrl {
    pub(super) fn uri(&self) -> AMQPUri {
        self.0.clone()
    }
}

impl std::str::FromStr for BrokerUrl {
    type Err = BrokerUrlError;

    fn from_str(text: &str) -> Result<Self, BrokerUrlError> {
        if !(text.starts_with("amqp://") || text.starts_with("amqps://")) {
            return Err(BrokerUrlError("it starts with neither amqp:// nor amqps://"));
        }
        let uri = text.parse::<AMQPUri>().map_err(|_| BrokerUrlError("it cannot be parsed"))?;
        Ok(Self(uri))
    }
}

impl fmt::Display for BrokerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let uri = &self.0;
        let scheme = if uri.scheme == AMQPScheme::AMQPS { "amqps" } else { "amqp" };
        let vhost = percent_encoding::utf8_percent_encode(&uri.vhost, percent_encoding::NON_ALPHANUMERIC);
        let (user, host, port) = (&uri.authority.userinfo.username, &uri.authority.host, uri.authority.port);
        write!(f, "{scheme}://{user}:***@{host}:{port}/{vhost}")
    }
}

impl fmt::Debug for BrokerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for BrokerUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for BrokerUrl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broker_is_written_as_its_url_and_the_rest_has_defaults() {
        let text = r#"{"brokers": {"default": {"url": "amqp://user:secret@127.0.0.1:5672/%2f"}}}"#;
        let config: Config = serde_json::from_str(text).unwrap();
        let broker = config.brokers.values().next().unwrap();
        assert_eq!(*broker, Broker::at("amqp://user:secret@127.0.0.1:5672/%2f".parse().unwrap()));
        assert_eq!(broker.url.uri().authority.userinfo.password, "secret");
        assert_eq!(serde_json::from_str::<Config>("{}").unwrap(), Config::default());
        assert!(serde_json::from_str::<Config>(r#"{"broker": {}}"#).is_err());
    }

    #[test]
    fn no_password_is_shown_or_written_out() {
        let config = Config {
            brokers: [(Name::namespace_default(), Broker::at("amqps://u:hunter2@host/v".parse().unwrap()))].into(),
        };
        for shown in [format!("{config:?}"), serde_json::to_string(&config).unwrap()] {
            assert!(!shown.contains("hunter2"), "{shown}");
            assert!(shown.contains("amqps://u:***@host:5671/v"), "{shown}");
        }
        for bad in ["http://u:hunter2@h", "u:hunter2@h", "", "amqp://u:hunter2@h:99999/"] {
            let error = bad.parse::<BrokerUrl>().unwrap_err().to_string();
            assert!(!error.contains("hunter2"), "{error}");
        }
    }
}

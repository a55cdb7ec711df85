//! What the path of a request names.

use std::borrow::Cow;

/// The platform's own paths; routes of manifests never reach below them.
const FUNCTION: &str = "/function/";
const ASYNC: &str = "/async-function/";

/// What a path names, undecoded and unchecked.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Target<'a> {
    /// `/function/{name}[.{namespace}][:{alias}][/path]`.
    Function {
        /// The function's name.
        name: &'a str,
        /// Its namespace, if given.
        namespace: Option<&'a str>,
        /// The alias, if given.
        alias: Option<&'a str>,
        /// Bytes of the path up to the function's own path.
        mount: usize,
    },
    /// `/async-function/...`.
    Async,
    /// Anything else: for the routes of manifests.
    Other,
}

impl<'a> Target<'a> {
    /// Reads a path.
    pub(super) fn parse(path: &'a str) -> Self {
        let Some(rest) = path.strip_prefix(FUNCTION) else {
            return if path.starts_with(ASYNC) { Self::Async } else { Self::Other };
        };
        let segment = rest.split_once('/').map_or(rest, |(segment, _)| segment);
        let (qualified, alias) = split(segment, ':');
        let (name, namespace) = split(qualified, '.');
        Self::Function { name, namespace, alias, mount: FUNCTION.len() + segment.len() }
    }
}

fn split(text: &str, at: char) -> (&str, Option<&str>) {
    text.split_once(at).map_or((text, None), |(before, after)| (before, Some(after)))
}

/// Returns the host of a `Host` header in lower case.
pub(super) fn host_without_port(host: &str) -> Cow<'_, str> {
    let end = match host.rfind(']') {
        Some(bracket) => bracket + 1,
        None => host.find(':').unwrap_or(host.len()),
    };
    let host = host.get(..end).unwrap_or(host);
    if host.bytes().any(|b| b.is_ascii_uppercase()) { host.to_ascii_lowercase().into() } else { host.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_function_path_splits_into_its_parts() {
        let parts = |path| match Target::parse(path) {
            Target::Function { name, namespace, alias, mount } => (name, namespace, alias, &path[mount..]),
            other => panic!("{path}: {other:?}"),
        };
        assert_eq!(parts("/function/a"), ("a", None, None, ""));
        assert_eq!(parts("/function/a/"), ("a", None, None, "/"));
        assert_eq!(parts("/function/a/b//c/"), ("a", None, None, "/b//c/"));
        assert_eq!(parts("/function/a.ns:v1/b:c.d"), ("a", Some("ns"), Some("v1"), "/b:c.d"));
        assert_eq!(parts("/function/a:v1.ns"), ("a", None, Some("v1.ns"), ""));
        assert_eq!(parts("/function/%61/x"), ("%61", None, None, "/x"));
        assert_eq!(parts("/function/"), ("", None, None, ""));
        assert_eq!(parts("/function//a"), ("", None, None, "/a"));
        assert_eq!(parts("/function/../x"), ("", Some("."), None, "/x"));
    }

    #[test]
    fn other_paths_are_for_routes() {
        for path in ["/", "/function", "/functions/a", "//function/a", "/Function/a", "/x/function/a"] {
            assert_eq!(Target::parse(path), Target::Other, "{path}");
        }
        assert_eq!(Target::parse("/async-function/a"), Target::Async);
    }

    #[test]
    fn hosts_lose_port_and_case() {
        for (host, expected) in
            [("example", "example"), ("Example:8080", "example"), ("[::1]", "[::1]"), ("[::1]:80", "[::1]"), ("", "")]
        {
            assert_eq!(host_without_port(host), expected);
        }
    }
}

//! A function in its smallest form: a greeting, a stream of events, an echo.
//!
//! **Never knows** the platform: it exports `wasi:http/incoming-handler` and
//! nothing else, and holds no body in memory: `/echo` is spliced by the host.

#[cfg(target_arch = "wasm32")]
mod component;

/// Longest name that is greeted, in characters; the rest is left off.
pub const NAME_CHARS_MAX: usize = 80;

/// What a path asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// A greeting, in full.
    Greeting(String),
    /// Server-sent events, one after the other.
    Events,
    /// The request's body, as it comes.
    Echo,
    /// None of these.
    Unknown,
}

/// Returns what the path and query of a request ask for.
#[must_use]
pub fn route(path_with_query: &str) -> Route {
    let (path, query) = path_with_query.split_once('?').unwrap_or((path_with_query, ""));
    match path {
        "/" => Route::Greeting(greeting(query)),
        "/sse" => Route::Events,
        "/echo" => Route::Echo,
        _ => Route::Unknown,
    }
}

fn greeting(query: &str) -> String {
    let name = query.split('&').find_map(|pair| pair.strip_prefix("name="));
    match name.map(decode) {
        Some(name) if !name.is_empty() => {
            let name: String = name.chars().filter(|c| !c.is_control()).take(NAME_CHARS_MAX).collect();
            format!("Hello, {name}!\n")
        }
        _ => "Hello from faas!\n".to_owned(),
    }
}

/// Decodes `%41` and `+`; what is no valid escape stays as it is.
fn decode(text: &str) -> String {
    let mut rest = text.as_bytes();
    let mut out = Vec::with_capacity(rest.len());
    while let Some((&byte, tail)) = rest.split_first() {
        let escaped = match tail {
            [high, low, ..] if byte == b'%' => hex(*high).zip(hex(*low)).map(|(h, l)| h << 4 | l),
            _ => None,
        };
        out.push(escaped.unwrap_or(if byte == b'+' { b' ' } else { byte }));
        rest = tail.get(if escaped.is_some() { 2 } else { 0 }..).unwrap_or_default();
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|d| u8::try_from(d).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn greeted(path_with_query: &str) -> String {
        match route(path_with_query) {
            Route::Greeting(text) => text,
            other => panic!("{path_with_query} is no greeting but {other:?}"),
        }
    }

    #[test]
    fn the_root_greets_by_name_or_without() {
        assert_eq!(greeted("/"), "Hello from faas!\n");
        assert_eq!(greeted("/?name="), "Hello from faas!\n");
        assert_eq!(greeted("/?name=Ada"), "Hello, Ada!\n");
        assert_eq!(greeted("/?x=1&name=Ada+Lovelace"), "Hello, Ada Lovelace!\n");
        assert_eq!(greeted("/?name=J%C3%BCrgen&name=other"), "Hello, Jürgen!\n");
    }

    #[test]
    fn a_hostile_name_stays_one_short_line_of_text() {
        assert_eq!(greeted("/?name=a%0D%0Ab"), "Hello, ab!\n");
        assert_eq!(greeted("/?name=%"), "Hello, %!\n");
        assert_eq!(greeted("/?name=%4"), "Hello, %4!\n");
        assert_eq!(greeted("/?name=%zz%41"), "Hello, %zzA!\n");
        assert_eq!(greeted("/?name=%FF"), "Hello, \u{fffd}!\n");
        assert_eq!(greeted(&format!("/?name={}", "x".repeat(10_000))), format!("Hello, {}!\n", "x".repeat(80)));
    }

    #[test]
    fn other_paths_are_told_apart() {
        assert_eq!(route("/sse?x=1"), Route::Events);
        assert_eq!(route("/echo"), Route::Echo);
        assert_eq!(route("/echo/"), Route::Unknown);
        assert_eq!(route(""), Route::Unknown);
    }
}

//! {{name}}: a function of faas.

mod http;

use http::{Request, Response};

/// Longest request body this function reads.
pub const BODY_BYTES_MAX: usize = 1 << 20;

/// Answers one call. Every call gets a fresh instance: keep state in a bucket, not in a static.
pub fn handle(request: Request) -> Response {
    // What is written to stdout and stderr is in `faas logs {{name}}`, with the call's id.
    eprintln!("{} {}", request.method, request.path);
    match (request.method.as_str(), request.path.as_str()) {
        ("GET" | "HEAD", "/") => {
            let name = request.parameter("name").unwrap_or_else(|| "world".to_owned());
            Response::new(200, "text/plain; charset=utf-8", format!("Hello, {name}!\n"))
        }
        ("POST", "/") => {
            let kind = request.header("content-type").unwrap_or("application/octet-stream").to_owned();
            Response::new(200, &kind, request.body)
        }
        (_, "/") => Response::new(405, "text/plain", "GET or POST\n").with("allow", "GET, HEAD, POST"),
        _ => Response::new(404, "text/plain", "no such path\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(method: &str, path: &str, query: &str) -> Response {
        handle(Request { method: method.into(), path: path.into(), query: query.into(), ..Request::default() })
    }

    #[test]
    fn greets_by_name() {
        assert_eq!(call("GET", "/", "").body, b"Hello, world!\n");
        assert_eq!(call("GET", "/", "name=Ada+Lovelace%21").body, b"Hello, Ada Lovelace!!\n");
    }

    #[test]
    fn answers_a_post_with_its_body() {
        let request = Request {
            method: "POST".into(),
            path: "/".into(),
            headers: vec![("content-type".into(), b"application/json".to_vec())],
            body: b"{}".to_vec(),
            ..Request::default()
        };
        assert_eq!(handle(request), Response::new(200, "application/json", "{}"));
    }

    #[test]
    fn refuses_what_it_does_not_know() {
        assert_eq!(call("DELETE", "/", "").status, 405);
        assert_eq!(call("GET", "/nowhere", "").status, 404);
    }
}

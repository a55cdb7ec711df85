//! Resizes photographs: an image by `POST`, a smaller one back.
//!
//! **Never knows** files, state or other functions. Never decodes more than
//! [`resize::PIXELS_MAX`] pixels or [`resize::DECODED_BYTES_MAX`] bytes, never reads more than
//! [`BODY_BYTES_MAX`] bytes, never answers an image with a side above [`wanted::SIDE_MAX`].

pub mod http;
pub mod resize;
pub mod wanted;

use http::{Request, Response};
use resize::Refusal;
use wanted::Wanted;

/// Longest request body, in bytes.
pub const BODY_BYTES_MAX: usize = 16 << 20;

const USAGE: &str = "\
POST a JPEG or PNG image to /?width=200 and a smaller one comes back.

  width=N        fit into N pixels of width, 1 to 1024 (320 if neither is given)
  height=N       fit into N pixels of height, 1 to 1024
  format=jpeg    answer a JPEG; format=png a PNG; without it the format that came in

The aspect is kept, an image is never enlarged, a camera's orientation is applied.

  curl --data-binary @photo.jpg 'http://HOST/?width=200' -o small.jpg
";

/// Answers one call.
#[must_use]
pub fn handle(request: Request) -> Response {
    match (request.method.as_str(), request.path.as_str()) {
        ("GET" | "HEAD", "/") => Response::new(200, "text/plain; charset=utf-8", USAGE),
        ("POST", "/") => {
            let answer = Wanted::parse(&request.query)
                .map_err(|detail| problem(400, "not a thumbnail", &detail))
                .and_then(|wanted| resize::thumbnail(&request.body, &wanted).map_err(refuse));
            match answer {
                Ok(small) => Response::new(200, small.content_type, small.bytes),
                Err(response) => response,
            }
        }
        (_, "/") => problem(405, "method not allowed", "GET explains, POST resizes").with("allow", "GET, HEAD, POST"),
        _ => problem(404, "not found", "the only path is /"),
    }
}

fn refuse(refusal: Refusal) -> Response {
    let (status, title) = match refusal {
        Refusal::Unsupported => (415, "unsupported image"),
        Refusal::TooLarge { .. } => (413, "image too large"),
        Refusal::Broken => (422, "broken image"),
    };
    problem(status, title, &refusal.to_string())
}

/// Returns an RFC 9457 problem; `title` and `detail` hold nothing that JSON would escape.
fn problem(status: u16, title: &str, detail: &str) -> Response {
    let body = format!(r#"{{"type":"about:blank","status":{status},"title":"{title}","detail":"{detail}"}}"#);
    Response::new(status, "application/problem+json", body)
}

#[cfg(test)]
mod tests;

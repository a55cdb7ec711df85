//! A guest of WASI 0.2, as an author with wstd writes one.

use state::wasi::keyvalue::{atomics, store};
use wstd::http::{Body, Client, Error, Request, Response, StatusCode};

mod state {
    wit_bindgen::generate!({
        inline: "
            package faas:guest;
            world guest {
                import wasi:keyvalue/store@0.2.0-draft2;
                import wasi:keyvalue/atomics@0.2.0-draft2;
            }
        ",
        path: "../../../runtimes/wasm/wit/deps/keyvalue",
        world: "faas:guest/guest",
        generate_all,
    });
}

fn answer(status: StatusCode, body: impl Into<Body>) -> Response<Body> {
    let mut answer = Response::new(body.into());
    *answer.status_mut() = status;
    answer
}

/// Returns the query parameter `name`; the tests need no decoding.
fn parameter(request: &Request<Body>, name: &str) -> String {
    let query = request.uri().query().unwrap_or_default();
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs.into_iter().find(|(n, _)| *n == name).map(|(_, value)| value.to_owned()).unwrap_or_default()
}

async fn fetch(url: &str) -> Result<String, Error> {
    let mut response = Client::new().send(Request::get(url).body(Body::empty())?).await?;
    let status = response.status().as_u16();
    Ok(format!("{status} {}", response.body_mut().str_contents().await?))
}

#[wstd::http_server]
async fn main(request: Request<Body>) -> Result<Response<Body>, Error> {
    Ok(match request.uri().path() {
        "/" => answer(StatusCode::OK, "hello from wstd\n".to_owned()),
        "/echo" => {
            let kind = request.headers().get("content-type").cloned();
            // Streamed: what is read is written.
            let mut echo = answer(StatusCode::OK, request.into_body());
            if let Some(kind) = kind {
                echo.headers_mut().insert("content-type", kind);
            }
            echo
        }
        "/count" => {
            let count = store::open("default").and_then(|b| atomics::increment(&b, &parameter(&request, "key"), 1));
            count.map_or_else(
                |error| answer(StatusCode::BAD_GATEWAY, format!("{error:?}\n")),
                |count| answer(StatusCode::OK, format!("{count}\n")),
            )
        }
        "/out" => match fetch(&parameter(&request, "url")).await {
            Ok(text) => answer(StatusCode::OK, text),
            Err(error) => answer(StatusCode::BAD_GATEWAY, format!("refused: {error:?}\n")),
        },
        _ => answer(StatusCode::NOT_FOUND, "no such path\n".to_owned()),
    })
}

//! A guest of WASI 0.3, as an author with the Spin SDK writes one.

use bytes::Bytes;
use spin_sdk::http::body::IncomingBodyExt;
use spin_sdk::http::{FullBody, IntoResponse, Request, Response, get};
use spin_sdk::http_service;
use state::wasi::keyvalue::{atomics, store};

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

fn answer(status: u16, body: impl Into<Bytes>) -> http::Response<FullBody<Bytes>> {
    let mut answer = http::Response::new(FullBody::new(body.into()));
    *answer.status_mut() = http::StatusCode::from_u16(status).expect("a status");
    answer
}

/// Returns the query parameter `name`; the tests need no decoding.
fn parameter(request: &Request, name: &str) -> String {
    let query = request.uri().query().unwrap_or_default();
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs.into_iter().find(|(n, _)| *n == name).map(|(_, value)| value.to_owned()).unwrap_or_default()
}

#[http_service]
async fn handle(request: Request) -> anyhow::Result<impl IntoResponse> {
    Ok(match request.uri().path() {
        "/" => answer(200, "hello from the Spin SDK\n"),
        "/echo" => {
            let kind = request.headers().get("content-type").cloned();
            let mut echo = answer(200, request.into_body().bytes().await?);
            if let Some(kind) = kind {
                echo.headers_mut().insert("content-type", kind);
            }
            echo
        }
        "/count" => {
            let bucket = store::open("default")?;
            answer(200, format!("{}\n", atomics::increment(&bucket, &parameter(&request, "key"), 1)?))
        }
        "/out" => match get(parameter(&request, "url")).await {
            Ok(response) => {
                let (head, body): (_, _) = Response::into_parts(response);
                let text = body.bytes().await?;
                answer(200, [format!("{} ", head.status.as_u16()).as_bytes(), &text].concat())
            }
            Err(error) => answer(502, format!("refused: {error:?}\n")),
        },
        _ => answer(404, "no such path\n"),
    })
}

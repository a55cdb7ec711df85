//! `faas invoke`: one call through the control API.

use std::io::Read;

use bytes::Bytes;
use faas_model::Body;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;

use crate::cli::Invoke;
use crate::client::{self, Client};
use crate::failure::{Exit, Failure, Outcome};
use crate::output;

/// Largest body that is read from a file or stdin.
const BODY_BYTES_MAX: u64 = 1 << 30;

/// Calls the function; its body goes to stdout whatever its status.
pub(crate) async fn run(invoke: &Invoke) -> Outcome {
    if !invoke.path.starts_with('/') {
        let message = format!("path {:?} does not start with '/'", invoke.path);
        return Err(Failure::new(Exit::Usage, message, "faas invoke NAME --path /orders"));
    }
    let body = invoke.data.as_deref().map(|given| data(given, BODY_BYTES_MAX)).transpose()?;
    let usual = || if body.is_some() { Method::POST } else { Method::GET };
    let method = invoke.method.clone().unwrap_or_else(usual);
    let client = Client::control(&invoke.remote)?;
    let (namespace, name) = (&invoke.remote.namespace, &invoke.name);
    let path = format!("/v1/namespaces/{namespace}/functions/{name}/invoke{}", invoke.path);
    let body = body.map_or(Body::Empty, Body::from);
    let response = client.send(method, &path, headers(&invoke.header)?, body).await?;
    if invoke.include {
        head(&response);
    }
    let status = response.status();
    if status.is_success() || status.is_redirection() {
        return print(response).await;
    }
    if !client::is_of_function(&response) {
        return Err(client::refusal(status, &client::collect(response.into_body()).await?));
    }
    print(response).await?;
    let hint = format!("that was its own answer; `faas logs {name}` shows what it wrote");
    Err(Failure::new(Exit::Function, format!("{name} answered {status}"), hint))
}

async fn print(response: Response<Incoming>) -> Outcome {
    let mut body = response.into_body();
    while let Some(frame) = body.frame().await {
        if let Ok(bytes) = frame.map_err(client::broken)?.into_data() {
            output::bytes(&bytes)?;
        }
    }
    Ok(())
}

fn head(response: &Response<Incoming>) {
    output::note(&format!("{:?} {}", response.version(), response.status()));
    for (name, value) in response.headers() {
        output::note(&format!("{name}: {}", output::plain(&String::from_utf8_lossy(value.as_bytes()))));
    }
}

/// Reads a value of the command line of at most `max` bytes: a text, `@FILE`, or `-` for stdin.
///
/// # Errors
/// `Refused` when it is longer, before more of it is read.
pub(crate) fn data(given: &str, max: u64) -> Outcome<Bytes> {
    let mut bytes = Vec::new();
    let read = match given.strip_prefix('@') {
        None if given != "-" => given.as_bytes().take(max + 1).read_to_end(&mut bytes),
        None => std::io::stdin().take(max + 1).read_to_end(&mut bytes),
        Some(file) => std::fs::File::open(file).and_then(|f| f.take(max + 1).read_to_end(&mut bytes)),
    };
    match read {
        Ok(read) if read as u64 > max => {
            Err(Failure::new(Exit::Refused, format!("the data is longer than {max} bytes"), "send less at once"))
        }
        Ok(_) => Ok(bytes.into()),
        Err(e) => Err(Failure::new(Exit::Usage, format!("{given} cannot be read: {e}"), "use TEXT, @FILE or -")),
    }
}

fn headers(given: &[String]) -> Outcome<HeaderMap> {
    let parse = |text: &String| {
        let (name, value) = text.split_once(':')?;
        Some((name.trim().parse::<HeaderName>().ok()?, HeaderValue::from_str(value.trim()).ok()?))
    };
    let mut headers = HeaderMap::new();
    for text in given {
        let (name, value) = parse(text).ok_or_else(|| {
            Failure::new(
                Exit::Usage,
                format!("header {text:?} is not of the form NAME: VALUE"),
                "--header 'accept: text/plain'",
            )
        })?;
        if name == http::header::AUTHORIZATION {
            let hint = "call the function itself with curl to send it one";
            return Err(Failure::new(Exit::Usage, "`authorization` is for the control API on this way", hint));
        }
        headers.append(name, value);
    }
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_come_from_text_or_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("body");
        std::fs::write(&file, [0, 159, 146, 150]).unwrap();
        let data = |given: &str| data(given, 4);
        assert_eq!(data("text").unwrap(), "text");
        assert_eq!(data(&format!("@{}", file.display())).unwrap().as_ref(), [0, 159, 146, 150]);
        assert_eq!(data("@/nowhere").unwrap_err().exit, Exit::Usage);
        for long in ["texts", "@/dev/zero"] {
            let refused = data(long).unwrap_err();
            assert_eq!(refused.exit, Exit::Refused);
            assert!(refused.message.contains("longer than 4 bytes"), "{refused}");
        }
    }

    #[test]
    fn headers_are_checked_before_anything_is_sent() {
        let good = headers(&["Accept: a".into(), "accept:b".into()]).unwrap();
        assert_eq!(good.get_all("accept").iter().count(), 2);
        for bad in ["noval", "a b: c", "x: \u{1}", "authorization: Bearer x"] {
            assert_eq!(headers(&[bad.into()]).unwrap_err().exit, Exit::Usage, "{bad}");
        }
    }
}

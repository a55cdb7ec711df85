//! `faas deploy`: streams components to the server and says what became of them.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use faas_control::DeployRequest;
use faas_model::manifest::Source;
use faas_model::{Body, BodyError, Name};
use futures_util::stream;
use http::{HeaderMap, HeaderValue, Method, header};
use http_body::Frame;
use http_body_util::StreamBody;
use serde_json::Value;
use tokio::fs::File;
use tokio::io::AsyncReadExt;

use super::build;
use crate::cli::{Deploy, Format, Remote};
use crate::client::Client;
use crate::failure::{Exit, Failure, Outcome};
use crate::output;

/// Bytes of a file read at once.
const CHUNK_BYTES: usize = 64 << 10;

/// One function to be deployed.
#[derive(Debug)]
struct Job {
    name: Name,
    request: DeployRequest,
    code: PathBuf,
}

/// Deploys a component, or the functions of a manifest in the order of their names.
pub(crate) async fn run(deploy: &Deploy) -> Outcome {
    let jobs = if deploy.path.is_dir() { of_manifest(deploy)? } else { vec![of_component(deploy)?] };
    let client = Client::control(&deploy.remote)?;
    for job in &jobs {
        let deployed = upload(&client, &deploy.remote, job).await.map_err(|failure| Failure {
            message: format!("deploy of {}: {}", job.name, failure.message),
            ..failure
        })?;
        print(deploy.remote.connection.output, &job.name, &deployed)?;
    }
    Ok(())
}

fn of_manifest(deploy: &Deploy) -> Outcome<Vec<Job>> {
    let manifest = build::manifest(&deploy.path)?;
    if let Some(name) = deploy.name.as_ref().filter(|n| !manifest.functions.contains_key(*n)) {
        let known: Vec<&str> = manifest.functions.keys().map(Name::as_str).collect();
        let message = format!("the manifest has no function {name}");
        return Err(Failure::new(Exit::Usage, message, format!("it has {}", known.join(", "))));
    }
    let chosen = manifest.functions.iter().filter(|(name, _)| deploy.name.as_ref().is_none_or(|n| n == *name));
    let job = |(name, source): (&Name, &Source)| {
        if deploy.build {
            build::build(&deploy.path, name, source)?;
        }
        let code = build::artefact(&deploy.path, name, source)?;
        Ok(Job { name: name.clone(), request: request(source), code })
    };
    chosen.map(job).collect()
}

fn of_component(deploy: &Deploy) -> Outcome<Job> {
    if !deploy.path.is_file() {
        let message = format!("{} is neither a folder nor a file", deploy.path.display());
        return Err(Failure::new(Exit::Usage, message, "name a folder with a faas.toml, or a component"));
    }
    let Some(name) = deploy.name.clone() else {
        let hint = format!("faas deploy {} --name NAME", deploy.path.display());
        return Err(Failure::new(Exit::Usage, "a component has no name of its own", hint));
    };
    Ok(Job { name, request: request(&Source::default()), code: deploy.path.clone() })
}

fn request(source: &Source) -> DeployRequest {
    DeployRequest { spec: source.spec(), settings: source.settings() }
}

async fn upload(client: &Client, remote: &Remote, job: &Job) -> Outcome<Value> {
    let (length, content_type, body) = form(&job.request, &job.code).await?;
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, content_type);
    headers.insert(header::CONTENT_LENGTH, length.into());
    output::progress(&format!("{}: uploading {length} bytes, then compiling and probing on the server", job.name));
    let path = format!("/v1/namespaces/{}/functions/{}", remote.namespace, job.name);
    client.document(Method::PUT, &path, headers, body).await
}

/// Returns length, content type and stream of a form (RFC 7578) with the parts `spec` and `code`.
async fn form(request: &DeployRequest, code: &Path) -> Outcome<(u64, HeaderValue, Body)> {
    let unreadable = |e: std::io::Error| {
        Failure::new(Exit::Data, format!("{} cannot be read: {e}", code.display()), "name a component you may read")
    };
    let file = File::open(code).await.map_err(unreadable)?;
    let size = file.metadata().await.map_err(unreadable)?.len();
    let spec = serde_json::to_string(request).unwrap_or_default();
    let boundary = format!("faas-{}", uuid::Uuid::new_v4().simple());
    let part = |name: &str, kind: &str| {
        format!(
            "--{boundary}\r\nContent-Disposition: form-data; name=\"{name}\"; filename=\"{name}\"\r\n\
             Content-Type: {kind}\r\n\r\n"
        )
    };
    let before = format!("{}{spec}\r\n{}", part("spec", "application/json"), part("code", "application/wasm"));
    let after = format!("\r\n--{boundary}--\r\n");
    let length = (before.len() + after.len()) as u64 + size;
    let content_type = HeaderValue::from_str(&format!("multipart/form-data; boundary={boundary}"))
        .map_err(|_| Failure::new(Exit::Refused, "the form has no boundary", "report this"))?;
    let frames = stream::try_unfold(Sending::Before(before.into(), file, after.into()), Sending::next);
    Ok((length, content_type, Body::stream(StreamBody::new(frames))))
}

/// What is still to be sent.
enum Sending {
    Before(Bytes, File, Bytes),
    File(File, Bytes),
    Done,
}

impl Sending {
    async fn next(self) -> Result<Option<(Frame<Bytes>, Self)>, BodyError> {
        match self {
            Self::Before(before, file, after) => Ok(Some((Frame::data(before), Self::File(file, after)))),
            Self::File(mut file, after) => {
                let mut chunk = bytes::BytesMut::with_capacity(CHUNK_BYTES);
                let read = file.read_buf(&mut chunk).await.map_err(|e| BodyError::Broken(e.to_string()))?;
                let next = if read == 0 { (after, Self::Done) } else { (chunk.freeze(), Self::File(file, after)) };
                Ok(Some((Frame::data(next.0), next.1)))
            }
            Self::Done => Ok(None),
        }
    }
}

fn print(format: Format, name: &Name, deployed: &Value) -> Outcome {
    if format != Format::Table {
        return output::document(format, deployed, name.as_str());
    }
    let revision: String = output::at(deployed, "/revision").chars().take(12).collect();
    let what = if deployed.get("unchanged").and_then(Value::as_bool) == Some(true) { "unchanged" } else { "deployed" };
    let version = output::at(deployed, "/version");
    output::line(&format!("{name} {what}  version {version}  revision {revision}  {}", output::at(deployed, "/url")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_form_is_as_long_as_it_says() {
        let dir = tempfile::tempdir().unwrap();
        let code = dir.path().join("code");
        for size in [0, 1, CHUNK_BYTES, 3 * CHUNK_BYTES + 7] {
            std::fs::write(&code, vec![7; size]).unwrap();
            let (length, _, body) = form(&request(&Source::default()), &code).await.unwrap();
            assert_eq!(body.collect(u64::MAX).await.unwrap().len() as u64, length);
        }
    }
}

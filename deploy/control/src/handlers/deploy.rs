//! Deploys: a form (RFC 7578) with the parts `spec` and `code`, in this order.
//!
//! The code streams to disk while it is hashed; nothing of it is kept in memory.

use axum::extract::multipart::{Field, MultipartError};
use axum::extract::{FromRequest, Multipart, Request, State};
use axum::response::IntoResponse;
use bytes::Bytes;
use faas_function_service::{Deploy, DeployError, Deployed, Expect, Upload};
use faas_model::manifest::Manifest;
use faas_model::{BodyError, FunctionName, Reason};
use http::{HeaderMap, StatusCode, header};
use serde_json::{Value, json};

use super::{Answer, DOCUMENT_BYTES_MAX, Shared, if_match, of_axum, tagged};
use crate::DeployRequest;
use crate::failure::Failure;
use crate::target::Function;

/// Makes a revision of the uploaded code and points `live` at it.
pub(crate) async fn deploy(
    State(state): Shared,
    Function(function): Function,
    request: Request,
) -> Answer<impl IntoResponse> {
    let code_bytes_max = state.config.code_bytes_max.0;
    let expected = expected(request.headers())?;
    refuse_by_length(request.headers(), code_bytes_max)?;
    let request = request.map(|body| axum::body::Body::new(of_axum(body).limited(code_bytes_max + DOCUMENT_BYTES_MAX)));
    let mut form = Multipart::from_request(request, &()).await.map_err(|rejection| {
        Failure::new(Reason::BadRequest, format!("send the form with content type multipart/form-data: {rejection}"))
    })?;
    let asked = spec(part(&mut form, "spec").await?, &function).await?;
    let mut code = part(&mut form, "code").await?;
    let mut upload = state.parts.service.begin_upload().await?;
    receive(&mut code, &mut upload, code_bytes_max).await.map_err(|failure| failure.in_phase("upload"))?;
    drop(code);
    end(&mut form).await?;
    let deploy = Deploy { function: function.clone(), spec: asked.spec, settings: asked.settings, upload, expected };
    let deployed = state.parts.service.deploy(deploy).await?;
    let status = if deployed.created { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, tagged(document(&function, &deployed, &state.url(&function)), &deployed.revision)))
}

/// A body that says it is too large is refused before a byte of it is read.
fn refuse_by_length(headers: &HeaderMap, code_bytes_max: u64) -> Answer<()> {
    let length = headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()).and_then(|v| v.parse::<u64>().ok());
    match length {
        Some(length) if length > code_bytes_max + DOCUMENT_BYTES_MAX => Err(too_large(code_bytes_max)),
        _ => Ok(()),
    }
}

fn too_large(code_bytes_max: u64) -> Failure {
    let detail = format!("the code is over its limit of {code_bytes_max} bytes (control.code_bytes_max)");
    Failure::new(Reason::BodyTooLarge, detail)
}

fn expected(headers: &HeaderMap) -> Answer<Expect> {
    match (if_match(headers)?, headers.get(header::IF_NONE_MATCH)) {
        (Some(revision), None) => Ok(Expect::Revision(revision)),
        (None, None) => Ok(Expect::Any),
        (None, Some(any)) if any == "*" => Ok(Expect::Absent),
        _ => Err(Failure::new(Reason::BadRequest, "give If-Match with one ETag, or If-None-Match: *, not both")),
    }
}

async fn part<'f>(form: &'f mut Multipart, name: &str) -> Answer<Field<'f>> {
    let wrong = |found: &str| {
        let detail =
            format!("the form must have the parts spec and code, in this order; {found} stands where {name} should");
        Failure::new(Reason::BadRequest, detail)
    };
    match form.next_field().await.map_err(broken)? {
        Some(field) if field.name() == Some(name) => Ok(field),
        Some(_) => Err(wrong("another part")),
        None => Err(wrong("the end")),
    }
}

async fn end(form: &mut Multipart) -> Answer<()> {
    match form.next_field().await.map_err(broken)? {
        None => Ok(()),
        Some(_) => Err(Failure::new(Reason::BadRequest, "the form has more parts than spec and code")),
    }
}

/// Reads the part `spec`: JSON, or a manifest in TOML that has the function.
async fn spec(mut field: Field<'_>, function: &FunctionName) -> Answer<DeployRequest> {
    let mut bytes = Vec::new();
    while let Some(chunk) = field.chunk().await.map_err(broken)? {
        if (bytes.len() + chunk.len()) as u64 > DOCUMENT_BYTES_MAX {
            return Err(BodyError::TooLarge { max: DOCUMENT_BYTES_MAX }.into());
        }
        bytes.extend_from_slice(&chunk);
    }
    let wrong = |detail: String| Failure::new(Reason::Unprocessable, detail).in_phase("check");
    if bytes.first() == Some(&b'{') {
        return serde_json::from_slice(&bytes).map_err(|e| wrong(format!("the part spec is not as asked for: {e}")));
    }
    let text = String::from_utf8(bytes).map_err(|_| wrong("the part spec is neither JSON nor TOML".into()))?;
    let manifest = Manifest::parse(&text).map_err(|e| wrong(e.to_string()))?;
    let source = manifest.functions.get(&function.name);
    let source = source.ok_or_else(|| wrong(format!("the manifest has no function {}", function.name)))?;
    Ok(DeployRequest { spec: source.spec(), settings: source.settings() })
}

async fn receive(field: &mut Field<'_>, upload: &mut Upload, code_bytes_max: u64) -> Answer<()> {
    while let Some(chunk) = next(field).await? {
        if upload.bytes() + chunk.len() as u64 > code_bytes_max {
            return Err(too_large(code_bytes_max));
        }
        upload.write(&chunk).await.map_err(|error| Failure::new(error.reason(), error.to_string()))?;
    }
    Ok(())
}

async fn next(field: &mut Field<'_>) -> Answer<Option<Bytes>> {
    field.chunk().await.map_err(broken)
}

/// A form that cannot be read: by the reason why its body ended, else malformed.
fn broken(error: MultipartError) -> Failure {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = std::error::Error::source(&error);
    while let Some(inner) = cause {
        if let Some(body) = inner.downcast_ref::<BodyError>() {
            return body.clone().into();
        }
        cause = inner.source();
    }
    Failure::new(Reason::BadRequest, "the form is malformed")
}

impl From<DeployError> for Failure {
    fn from(error: DeployError) -> Self {
        Self::from(error.problem).in_phase(error.phase.as_str())
    }
}

fn document(function: &FunctionName, deployed: &Deployed, url: &str) -> Value {
    let phases = deployed.timings.iter().map(
        |(phase, took)| json!({ "phase": phase.as_str(), "ms": u64::try_from(took.as_millis()).unwrap_or(u64::MAX) }),
    );
    json!({
        "function": function,
        "revision": deployed.revision,
        "version": deployed.version,
        "previous": deployed.previous,
        "unchanged": !deployed.created && !deployed.moved,
        "timings": phases.collect::<Vec<_>>(),
        "url": url,
    })
}

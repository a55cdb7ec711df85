//! What a path names: every part is checked by the one grammar of names.

use axum::extract::{FromRequestParts, RawPathParams};
use faas_model::{FunctionName, Name, Reason};
use http::request::Parts;

use crate::failure::Failure;

/// The namespace of a path.
#[derive(Debug, Clone)]
pub(crate) struct Namespace(pub(crate) Name);

/// The function of a path.
#[derive(Debug, Clone)]
pub(crate) struct Function(pub(crate) FunctionName);

/// The function and the alias of a path.
#[derive(Debug, Clone)]
pub(crate) struct Alias(pub(crate) FunctionName, pub(crate) Name);

impl<S: Send + Sync> FromRequestParts<S> for Namespace {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        let params = params(parts, state).await?;
        Ok(Self(name(&params, "ns")?))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Function {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        let params = params(parts, state).await?;
        Ok(Self(FunctionName::new(name(&params, "ns")?, name(&params, "name")?)))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Alias {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        let params = params(parts, state).await?;
        let function = FunctionName::new(name(&params, "ns")?, name(&params, "name")?);
        Ok(Self(function, name(&params, "alias")?))
    }
}

async fn params<S: Send + Sync>(parts: &mut Parts, state: &S) -> Result<RawPathParams, Failure> {
    RawPathParams::from_request_parts(parts, state)
        .await
        .map_err(|_| Failure::new(Reason::BadRequest, "the path is not percent-encoded UTF-8"))
}

fn name(params: &RawPathParams, key: &str) -> Result<Name, Failure> {
    let text = params.iter().find(|(k, _)| *k == key).map_or("", |(_, value)| value);
    Name::new(text).map_err(|e| Failure::new(Reason::BadRequest, e.to_string()))
}

//! Calling a function with the operator's token.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;
use faas_model::{Name, Reason};
use http::uri::PathAndQuery;
use http::{Uri, header};

use super::{Answer, State as Shared, of_axum, stream};
use crate::failure::Failure;
use crate::target::Function;

/// Sends the request on to the function with what follows `/invoke` as its path.
pub(crate) async fn invoke(
    State(state): State<Arc<Shared>>,
    Function(function): Function,
    request: Request,
) -> Answer<Response> {
    let mut request = request.map(of_axum);
    *request.uri_mut() = target(request.uri())?;
    // The credential is for this API; the function shall not see it.
    request.headers_mut().remove(header::AUTHORIZATION);
    Ok(stream((state.parts.invoke)(function, Name::alias_live(), request).await))
}

/// Returns the path and query after `/v1/namespaces/{ns}/functions/{name}/invoke`, as they were written.
fn target(uri: &Uri) -> Answer<Uri> {
    let wrong = || Failure::new(Reason::BadRequest, "what follows /invoke is no path");
    let text = uri.path_and_query().map_or("", PathAndQuery::as_str);
    // "", "v1", "namespaces", NS, "functions", NAME, then "invoke" with the rest; names hold no '/'.
    let rest = text.splitn(7, '/').nth(6).and_then(|rest| rest.strip_prefix("invoke")).ok_or_else(wrong)?;
    let rest = if rest.starts_with('/') { rest.to_owned() } else { format!("/{rest}") };
    rest.parse().map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rest_of_the_path_goes_on_as_it_was_written() {
        for (given, expect) in [
            ("/v1/namespaces/a/functions/b/invoke", "/"),
            ("/v1/namespaces/a/functions/b/invoke?x=1", "/?x=1"),
            ("/v1/namespaces/a/functions/b/invoke/", "/"),
            ("/v1/namespaces/a/functions/b/invoke/c%2Fd//e?x=/y", "/c%2Fd//e?x=/y"),
        ] {
            assert_eq!(target(&given.parse().unwrap()).unwrap().to_string(), expect);
        }
    }
}

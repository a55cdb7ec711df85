//! What functions wrote, as JSON lines.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;

use axum::extract::{Query, State};
use axum::response::IntoResponse;
use bytes::Bytes;
use faas_model::Reason;
use futures_util::{StreamExt, stream};
use http::header;
use serde::{Deserialize, Serialize};

use super::{Answer, Shared};
use crate::failure::Failure;
use crate::target::Function;

/// Most lines of the past in one answer.
const LINES_MAX: usize = 10_000;

/// What is asked for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Asked {
    #[serde(default = "lines_default")]
    lines: usize,
    #[serde(default)]
    follow: bool,
}

fn lines_default() -> usize {
    100
}

/// Answers with the latest lines, and goes on with `follow=true` until the client leaves.
pub(crate) async fn logs(
    State(state): Shared,
    Function(function): Function,
    query: Result<Query<Asked>, axum::extract::rejection::QueryRejection>,
) -> Answer<impl IntoResponse> {
    let Query(asked) = query.map_err(|_| {
        Failure::new(Reason::BadRequest, "the query may have lines (a number) and follow (true or false)")
    })?;
    if asked.lines > LINES_MAX {
        return Err(Failure::new(
            Reason::BadRequest,
            format!("lines is {}, at most {LINES_MAX} are kept", asked.lines),
        ));
    }
    let service = &state.parts.service;
    service.describe(&function).await?;
    let permit = Arc::clone(&state.followers).try_acquire_owned();
    if asked.follow && permit.is_err() {
        return Err(Failure::new(Reason::RateLimited, "control.followers_max clients follow logs already"));
    }
    // Following starts before the past is read, so that no line falls between.
    let follower = asked.follow.then(|| service.logs().follow(&function));
    let past = service.logs().tail(&function, asked.lines).await;
    let unreadable = || Failure::new(Reason::Internal, "the log cannot be read");
    let past = past.map_err(|_| unreadable())?;
    // Ten thousand long lines take tens of milliseconds, which no thread has that serves others.
    let written = tokio::task::spawn_blocking(move || {
        let mut text = Vec::new();
        past.iter().for_each(|line| text.extend_from_slice(&json_line(line)));
        (text, VecDeque::from(past))
    });
    let (text, mut seen) = written.await.map_err(|_| unreadable())?;
    let past = stream::iter([Ok::<_, Infallible>(Bytes::from(text))]);
    let readiness = state.parts.readiness.clone();
    let coming = stream::unfold((follower, permit), move |(follower, permit)| {
        let readiness = readiness.clone();
        async move {
            let mut follower = follower?;
            // A follower would hold up the end of the process for its whole grace.
            let line = tokio::select! {
                line = follower.next() => line?,
                () = readiness.draining() => return None,
            };
            Some((line, (Some(follower), permit)))
        }
    });
    let coming = coming.filter_map(move |line| {
        let known = was_seen(&mut seen, &line);
        std::future::ready((!known).then(|| Ok(json_line(&line))))
    });
    let body = axum::body::Body::from_stream(past.chain(coming));
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], body))
}

/// Returns whether a followed line was printed with the past, and forgets the past at the first that was not.
fn was_seen<T: PartialEq>(seen: &mut VecDeque<T>, line: &T) -> bool {
    match seen.iter().position(|s| s == line) {
        Some(at) => {
            seen.drain(..=at);
            true
        }
        None => {
            seen.clear();
            false
        }
    }
}

fn json_line(line: &impl Serialize) -> Bytes {
    let mut text = serde_json::to_vec(line).unwrap_or_default();
    text.push(b'\n');
    text.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_followed_line_that_was_printed_with_the_past_is_not_printed_again() {
        let mut seen = VecDeque::from([1, 2, 2, 3]);
        let lines = [2, 2, 3, 4, 2];
        let printed: Vec<_> = lines.iter().filter(|line| !was_seen(&mut seen, line)).collect();
        assert_eq!(printed, [&4, &2]);
    }
}

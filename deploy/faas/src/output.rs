//! Data on stdout, everything else on stderr.

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};

use serde_json::Value;

use crate::cli::Format;
use crate::failure::{Exit, Failure, Outcome};

/// Writes bytes to stdout. A reader that left (`| head`) ends the process quietly.
pub(crate) fn bytes(bytes: &[u8]) -> Outcome {
    let mut out = io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).map_err(failed)
}

/// Writes one line to stdout.
pub(crate) fn line(text: &str) -> Outcome {
    bytes(format!("{text}\n").as_bytes())
}

/// Writes one line to stderr, where nobody minds if it cannot be written.
pub(crate) fn note(text: &str) {
    writeln!(io::stderr(), "{text}").ok();
}

/// Writes a passing line to stderr when a person watches.
pub(crate) fn progress(text: &str) {
    if io::stderr().is_terminal() {
        note(text);
    }
}

fn failed(error: io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::BrokenPipe => Failure::new(Exit::Refused, "", ""),
        _ => Failure::new(Exit::Refused, format!("stdout cannot be written: {error}"), "check where it leads"),
    }
}

/// A column: its title and where its value stands in a row.
pub(crate) type Column = (&'static str, fn(&Value) -> String);

/// Prints rows; `name` takes the first column.
pub(crate) fn rows(format: Format, rows: &[Value], columns: &[Column]) -> Outcome {
    match format {
        Format::Json => line(&pretty(&Value::Array(rows.to_vec()))),
        Format::Jsonl => rows.iter().try_for_each(|row| line(&row.to_string())),
        Format::Name => {
            rows.iter().try_for_each(|row| columns.first().map_or(Ok(()), |(_, cell)| line(&plain(&cell(row)))))
        }
        Format::Table => bytes(table(rows, columns).as_bytes()),
    }
}

/// Prints one document; tables show it as rows of key and value.
pub(crate) fn document(format: Format, document: &Value, name: &str) -> Outcome {
    match format {
        Format::Json => line(&pretty(document)),
        Format::Jsonl => line(&document.to_string()),
        Format::Name => line(&plain(name)),
        Format::Table => {
            let mut pairs = Vec::new();
            flatten("", document, &mut pairs);
            let width = pairs.iter().map(|(k, _)| k.chars().count()).max().unwrap_or(0);
            pairs.iter().try_for_each(|(key, value)| line(&format!("{key:width$}  {value}")))
        }
    }
}

fn flatten(prefix: &str, value: &Value, out: &mut Vec<(String, String)>) {
    let key = |name: &str| if prefix.is_empty() { name.to_owned() } else { format!("{prefix}.{name}") };
    match value {
        Value::Object(map) => map.iter().for_each(|(name, value)| flatten(&key(name), value, out)),
        Value::Array(items) if items.iter().any(Value::is_object) => {
            items.iter().enumerate().for_each(|(i, item)| flatten(&key(&i.to_string()), item, out));
        }
        Value::Array(items) if items.is_empty() => {}
        Value::Array(items) => out.push((prefix.to_owned(), items.iter().map(text).collect::<Vec<_>>().join(", "))),
        Value::Null => {}
        other => out.push((prefix.to_owned(), text(other))),
    }
}

fn table(rows: &[Value], columns: &[Column]) -> String {
    let titles = columns.iter().map(|(title, _)| (*title).to_owned()).collect();
    let cells = rows.iter().map(|row| columns.iter().map(|(_, cell)| plain(&cell(row))).collect());
    let lines: Vec<Vec<String>> = std::iter::once(titles).chain(cells).collect();
    let widths: Vec<usize> = (0..columns.len())
        .map(|i| lines.iter().filter_map(|l| l.get(i)).map(|c| c.chars().count()).max().unwrap_or(0))
        .collect();
    let mut out = String::new();
    for cells in &lines {
        let padded: Vec<String> = cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        writeln!(out, "{}", padded.join("  ").trim_end()).ok();
    }
    out
}

/// Returns a value at a JSON pointer as text.
pub(crate) fn at(row: &Value, pointer: &str) -> String {
    row.pointer(pointer).map(text).unwrap_or_default()
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => plain(text),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

/// Escapes control characters, so that no value moves the cursor of a terminal.
pub(crate) fn plain(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect()
}

/// Returns Unix milliseconds as UTC (RFC 3339, seconds).
pub(crate) fn instant(row: &Value, pointer: &str) -> String {
    let ms = row.pointer(pointer).and_then(Value::as_i64);
    let at = ms.and_then(|ms| jiff::Timestamp::from_second(ms.div_euclid(1000)).ok());
    at.map(|at| at.to_string()).unwrap_or_default()
}

fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn columns_align_and_control_characters_are_escaped() {
        let rows = [json!({"name": "a\u{1b}[2J", "version": 12}), json!({"name": "orders"})];
        let columns: &[Column] = &[("NAME", |r| at(r, "/name")), ("VERSION", |r| at(r, "/version"))];
        assert_eq!(table(&rows, columns), "NAME        VERSION\na\\u{1b}[2J  12\norders\n");
    }

    #[test]
    fn documents_flatten_to_dotted_keys() {
        let mut out = Vec::new();
        flatten("", &json!({"a": {"b": [1, 2], "c": [{"d": "x"}], "e": null}}), &mut out);
        let pairs: Vec<_> = out.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        assert_eq!(pairs, [("a.b", "1, 2"), ("a.c.0.d", "x")]);
    }

    #[test]
    fn times_are_civil_dates() {
        assert_eq!(instant(&json!({"at": 951_782_400_999_i64}), "/at"), "2000-02-29T00:00:00Z");
        assert_eq!(instant(&json!({}), "/at"), "");
    }
}

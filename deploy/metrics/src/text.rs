//! The text format of Prometheus, version 0.0.4.

use std::fmt::{self, Display, Write};

use crate::cell::{Kind, Value};
use crate::registry::{FUNCTION, Family, Told};

/// Bytes of a line, about.
const LINE_BYTES: usize = 96;

/// Writes everything that is told.
pub(crate) fn write(told: Told) -> String {
    let lines: usize = told.series.iter().flat_map(|(_, series)| series).map(|(_, value)| lines(value)).sum();
    let mut text = String::with_capacity(lines * LINE_BYTES);
    let mut name = "";
    for (family, series) in &told.series {
        if family.name != name {
            name = &family.name;
            head(&mut text, family, told.helps.get(name));
        }
        for (function, value) in series {
            let function = function.as_ref().map(|function| (FUNCTION, &**function));
            let others = family.labels.iter().map(|(key, value)| (key.as_str(), value.as_str()));
            let labels = Labels(function.into_iter().chain(others).collect());
            // Writing to a string does not fail.
            series_of(&mut text, name, &labels, value).ok();
        }
    }
    text
}

fn lines(value: &Value) -> usize {
    match value {
        Value::Counter(_) | Value::Gauge(_) => 1,
        Value::Histogram { counts, .. } => counts.len() + 2,
    }
}

fn head(text: &mut String, family: &Family, help: Option<&String>) {
    let kind = match family.kind {
        Kind::Counter => "counter",
        Kind::Gauge => "gauge",
        Kind::Histogram => "histogram",
    };
    if let Some(help) = help {
        let help = help.replace('\\', "\\\\").replace('\n', "\\n");
        writeln!(text, "# HELP {} {help}", family.name).ok();
    }
    writeln!(text, "# TYPE {} {kind}", family.name).ok();
}

fn series_of(text: &mut String, name: &str, labels: &Labels<'_>, value: &Value) -> fmt::Result {
    match value {
        Value::Counter(count) => line(text, (name, ""), labels, None, count),
        Value::Gauge(level) => line(text, (name, ""), labels, None, level),
        Value::Histogram { bounds, counts, sum } => {
            let mut all = 0;
            let bounds = bounds.iter().map(Some).chain([None]);
            for (bound, count) in bounds.zip(counts) {
                all += count;
                match bound {
                    Some(bound) => line(text, (name, "_bucket"), labels, Some(bound), &all)?,
                    None => line(text, (name, "_bucket"), labels, Some(&"+Inf"), &all)?,
                }
            }
            line(text, (name, "_sum"), labels, None, sum)?;
            line(text, (name, "_count"), labels, None, &all)
        }
    }
}

fn line(
    text: &mut String,
    (name, suffix): (&str, &str),
    labels: &Labels<'_>,
    bound: Option<&dyn Display>,
    value: &dyn Display,
) -> fmt::Result {
    write!(text, "{name}{suffix}")?;
    match (bound, labels.0.is_empty()) {
        (Some(bound), true) => write!(text, "{{le=\"{bound}\"}}")?,
        (Some(bound), false) => write!(text, "{{{labels},le=\"{bound}\"}}")?,
        (None, true) => {}
        (None, false) => write!(text, "{{{labels}}}")?,
    }
    writeln!(text, " {value}")
}

/// Labels between their braces.
struct Labels<'l>(Vec<(&'l str, &'l str)>);

impl Display for Labels<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, (key, value)) in self.0.iter().enumerate() {
            let comma = if n > 0 { "," } else { "" };
            write!(f, "{comma}{key}=\"")?;
            for c in value.chars() {
                match c {
                    '\\' => f.write_str("\\\\")?,
                    '"' => f.write_str("\\\"")?,
                    '\n' => f.write_str("\\n")?,
                    c => f.write_char(c)?,
                }
            }
            f.write_char('"')?;
        }
        Ok(())
    }
}

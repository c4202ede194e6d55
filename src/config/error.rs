//! One line for each mistake: the file, the line, the field, and what would be right.

use std::fmt;
use std::path::{Path, PathBuf};

use super::source::{Field, Source};

/// Why a configuration is refused. Displays as `config/x.toml:12: backend[1].weight: must be ...`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError {
    file: PathBuf,
    line: Option<usize>,
    field: String,
    text: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        if !self.field.is_empty() {
            write!(f, ": {}", self.field)?;
        }
        write!(f, ": {}", self.text)
    }
}

impl ConfigError {
    /// The file cannot be read.
    pub(super) fn unread(file: &Path, error: &std::io::Error) -> Self {
        let text = format!("cannot be read: {error}");
        Self { file: file.to_owned(), line: None, field: String::new(), text }
    }

    /// A field has a value of the right type that cannot be meant.
    pub(super) fn field(file: &Path, source: &Source<'_>, field: &Field, text: String) -> Self {
        let line = source.line_of(field);
        Self { file: file.to_owned(), line, field: field.to_string(), text }
    }

    /// The text is no TOML, or a value has the wrong type.
    pub(super) fn toml(file: &Path, source: &Source<'_>, error: &toml::de::Error) -> Self {
        let offset = error.span().map(|span| span.start);
        let mut field = offset.map_or_else(Field::default, |offset| source.field_at(offset));
        let mut message = error.message().replace('\n', ", ");
        if let Some((index, rest)) = element(&message) {
            field = field.at(index);
            message = rest.to_owned();
        }
        let text = match message.strip_prefix("missing field ") {
            Some(name) => {
                let name = name.trim_matches('`');
                field = field.key(name);
                "is missing".to_owned()
            }
            None => explain(&message, &field),
        };
        // An empty file has its mistake nowhere.
        let line = if field.is_root() { offset.map(|at| source.line(at)) } else { source.line_of(&field) };
        Self { file: file.to_owned(), line, field: field.to_string(), text }
    }
}

/// The index of the element that a message about a list begins with.
fn element(message: &str) -> Option<(usize, &str)> {
    let (index, rest) = message.strip_prefix('[')?.split_once("]: ")?;
    Some((index.parse().ok()?, rest))
}

/// serde's words in ours.
fn explain(message: &str, field: &Field) -> String {
    if let Some(rest) = message.strip_prefix("unknown field ") {
        let known = quoted(rest).skip(1).collect::<Vec<_>>();
        return unknown(field.last_key().unwrap_or_default(), &known);
    }
    if let Some(rest) = message.strip_prefix("unknown variant ") {
        let mut names = quoted(rest);
        let is = names.next().unwrap_or_default().to_owned();
        let known = names.map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(", ");
        return format!("must be one of {known}, is \"{is}\"");
    }
    for kind in ["invalid type: ", "invalid value: "] {
        if let Some((is, expected)) = message.strip_prefix(kind).and_then(|rest| rest.rsplit_once(", expected ")) {
            let expected = match expected {
                "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number of 0 or more",
                "a boolean" => "true or false",
                "a string" => "text in quotes",
                "a sequence" => "a list in [ ]",
                other if other.starts_with("struct ") => "a section",
                other => other.trim_start_matches("must be "),
            };
            return format!("must be {expected}, is {}", is.replace('`', ""));
        }
    }
    message.to_owned()
}

/// An unknown field, and the known one that was probably meant.
fn unknown(name: &str, known: &[&str]) -> String {
    let nearest = known.iter().map(|other| (distance(name, other), other)).min();
    match nearest {
        Some((distance, other)) if distance <= 1 + name.len() / 3 => {
            format!("is unknown, did you mean {other}?")
        }
        _ => format!("is unknown, known are {}", known.join(", ")),
    }
}

fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// How many letters must be changed, added or left out to make one word of the other.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.chars().enumerate() {
            let changed = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.chars().count()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        assert_eq!(distance("weight", "wieght"), 2);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("name", "name"), 0);
        assert_eq!(distance("adress", "address"), 1);
    }
}

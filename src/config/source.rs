//! From a field to its line and back: the text of a configuration with the places of its values.

use std::fmt;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// The path of a field, such as `backend[1].weight`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Field(Vec<Step>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Key(String),
    Index(usize),
}

impl Field {
    pub(super) fn of(section: &str) -> Self {
        Self::default().key(section)
    }

    pub(super) fn key(mut self, key: &str) -> Self {
        self.0.push(Step::Key(key.to_owned()));
        self
    }

    pub(super) fn at(mut self, index: usize) -> Self {
        self.0.push(Step::Index(index));
        self
    }

    pub(super) fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn last_key(&self) -> Option<&str> {
        match self.0.last() {
            Some(Step::Key(key)) => Some(key),
            _ => None,
        }
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, step) in self.0.iter().enumerate() {
            match step {
                Step::Key(key) if index == 0 => write!(f, "{key}")?,
                Step::Key(key) => write!(f, ".{key}")?,
                Step::Index(index) => write!(f, "[{index}]")?,
            }
        }
        Ok(())
    }
}

/// How a name in the file is written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// `[name]`
    Section,
    /// `[[name]]`
    List,
    /// `name = value`
    Value,
}

/// The text, parsed only as far as its spans, and as far as it is TOML.
pub(super) struct Source<'a> {
    text: &'a str,
    root: Spanned<DeTable<'a>>,
}

impl<'a> Source<'a> {
    /// The text, and why it is no TOML if it is not.
    pub(super) fn new(text: &'a str) -> (Self, Option<toml::de::Error>) {
        let (root, errors) = DeTable::parse_recoverable(text);
        (Self { text, root }, errors.into_iter().next())
    }

    pub(super) fn text(&self) -> &'a str {
        self.text
    }

    /// The line of a byte, from 1.
    pub(super) fn line(&self, offset: usize) -> usize {
        1 + self.text.bytes().take(offset).filter(|byte| *byte == b'\n').count()
    }

    /// The line of a field, or of the nearest thing around it that is written down.
    pub(super) fn line_of(&self, field: &Field) -> Option<usize> {
        self.walk(field).0.map(|span| self.line(span.start))
    }

    /// A field's value as it is written down, if it is.
    pub(super) fn written(&self, field: &Field) -> Option<&'a str> {
        self.text.get(self.walk(field).1?.span())
    }

    /// How the names of the file's first level are written.
    pub(super) fn shapes(&self) -> impl Iterator<Item = (&str, Shape)> {
        self.root.get_ref().iter().map(|(name, value)| {
            let shape = match value.get_ref() {
                DeValue::Table(_) => Shape::Section,
                DeValue::Array(array) if array.iter().all(|one| one.get_ref().is_table()) => Shape::List,
                _ => Shape::Value,
            };
            (name.get_ref().as_ref(), shape)
        })
    }

    /// The place of the innermost step of a field that is written down, and the value if all are.
    fn walk(&self, field: &Field) -> (Option<Range<usize>>, Option<&Spanned<DeValue<'a>>>) {
        let mut table = Some(self.root.get_ref());
        let mut array = None;
        let mut place = None;
        let mut found = None;
        for step in &field.0 {
            let value = match step {
                Step::Key(key) => {
                    let Some((name, value)) =
                        table.and_then(|table| table.iter().find(|(name, _)| name.get_ref() == key))
                    else {
                        return (place, None);
                    };
                    place = Some(name.span());
                    value
                }
                Step::Index(index) => {
                    let Some(value) = array.and_then(|array: &toml::de::DeArray<'a>| array.get(*index)) else {
                        return (place, None);
                    };
                    place = Some(value.span());
                    value
                }
            };
            table = value.get_ref().as_table();
            array = value.get_ref().as_array();
            found = Some(value);
        }
        (place, found)
    }

    /// The innermost field whose key or value begins at or reaches over a byte.
    pub(super) fn field_at(&self, offset: usize) -> Field {
        let mut found = Field::default();
        search_table(self.root.get_ref(), offset, &Field::default(), &mut found);
        found
    }
}

fn search_table(table: &DeTable<'_>, offset: usize, path: &Field, found: &mut Field) {
    for (key, value) in table.iter() {
        let path = path.clone().key(key.get_ref());
        if key.span().contains(&offset) {
            *found = path.clone();
        }
        search(value, offset, &path, found);
    }
}

fn search(value: &Spanned<DeValue<'_>>, offset: usize, path: &Field, found: &mut Field) {
    if value.span().contains(&offset) {
        *found = path.clone();
    }
    match value.get_ref() {
        DeValue::Table(table) => search_table(table, offset, path, found),
        DeValue::Array(array) => {
            for (index, value) in array.iter().enumerate() {
                search(value, offset, &path.clone().at(index), found);
            }
        }
        _ => {}
    }
}

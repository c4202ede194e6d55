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

/// The text, parsed only as far as its spans; nothing parsed when it is no TOML.
pub(super) struct Source<'a> {
    text: &'a str,
    root: Option<Spanned<DeTable<'a>>>,
}

impl<'a> Source<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { text, root: DeTable::parse(text).ok() }
    }

    /// The line of a byte, from 1.
    pub(super) fn line(&self, offset: usize) -> usize {
        1 + self.text.bytes().take(offset).filter(|byte| *byte == b'\n').count()
    }

    /// The line of a field, or of the nearest thing around it that is written down.
    pub(super) fn line_of(&self, field: &Field) -> Option<usize> {
        let mut table = Some(self.root.as_ref()?.get_ref());
        let mut array = None;
        let mut line = None;
        for step in &field.0 {
            let value = match step {
                Step::Key(key) => {
                    let Some((name, value)) =
                        table.and_then(|table| table.iter().find(|(name, _)| name.get_ref() == key))
                    else {
                        break;
                    };
                    line = Some(name.span());
                    value
                }
                Step::Index(index) => {
                    let Some(value) = array.and_then(|array: &toml::de::DeArray<'_>| array.get(*index)) else {
                        break;
                    };
                    line = Some(value.span());
                    value
                }
            };
            table = value.get_ref().as_table();
            array = value.get_ref().as_array();
        }
        line.map(|span: Range<usize>| self.line(span.start))
    }

    /// The innermost field whose key or value begins at or reaches over a byte.
    pub(super) fn field_at(&self, offset: usize) -> Field {
        let mut found = Field::default();
        if let Some(root) = &self.root {
            search_table(root.get_ref(), offset, &Field::default(), &mut found);
        }
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

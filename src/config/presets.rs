//! `[placement] presets`: colocate rules for well-known frameworks, by name.
//!
//! The texts are the files of `config/presets/`, so that they can be read, and copied by whoever uses
//! other names than a framework's defaults. A preset never changes once it is published: its keys
//! would move (`tests/golden/colocate.txt`). What a framework's new version needs gets a new name.

use serde::Deserialize;

use super::Colocate;

/// A preset's name, and its file.
pub(super) const ALL: [(&str, &str); 5] = [
    ("bee-queue", include_str!("../../config/presets/bee-queue.toml")),
    ("bullmq", include_str!("../../config/presets/bullmq.toml")),
    ("celery", include_str!("../../config/presets/celery.toml")),
    ("rq", include_str!("../../config/presets/rq.toml")),
    ("sidekiq", include_str!("../../config/presets/sidekiq.toml")),
];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Preset {
    colocate: Vec<Colocate>,
}

/// The rules of the preset called `name`.
pub(super) fn rules(name: &str) -> Option<Vec<Colocate>> {
    let (_, text) = ALL.iter().find(|(known, _)| *known == name)?;
    toml::from_str(text).ok().map(|preset: Preset| preset.colocate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_is_a_preset_and_says_what_it_was_tested_with() {
        let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/config/presets");
        let files = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name());
        let mut files: Vec<_> = files.map(|name| name.into_string().unwrap()).collect();
        files.sort();
        assert_eq!(files, ALL.map(|(name, _)| format!("{name}.toml")));
        for (name, text) in ALL {
            assert!(rules(name).is_some_and(|rules| !rules.is_empty()), "{name}");
            assert!(text.contains("\n# Tested with "), "{name}");
        }
        assert!(rules("no-such-framework").is_none());
    }
}

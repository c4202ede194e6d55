//! Passwords: fetched once, at loading, from the file, the environment or a file of their own.

use std::path::Path;

use super::Config;
use super::check::{Checked, mistake};
use super::source::Field;
use super::value::Secret;

/// Puts each password where it is looked for.
pub(super) fn fetch(config: &mut Config) -> Checked {
    let directory = config.file.parent().unwrap_or(Path::new("")).to_owned();
    for (index, backend) in config.backend.iter_mut().enumerate() {
        let field = Field::of("backend").at(index);
        one(
            &field,
            &directory,
            &mut backend.password,
            backend.password_env.as_deref(),
            backend.password_file.as_deref(),
        )?;
        if backend.username.is_some() && backend.password.is_none() {
            return mistake(field.key("username"), "needs password, password_env or password_file beside it");
        }
    }
    for (index, user) in config.user.iter_mut().enumerate() {
        let field = Field::of("user").at(index);
        one(&field, &directory, &mut user.password, user.password_env.as_deref(), user.password_file.as_deref())?;
    }
    Ok(())
}

/// Fetches one password from whichever place it is kept in.
fn one(
    field: &Field,
    directory: &Path,
    password: &mut Option<Secret>,
    env: Option<&str>,
    file: Option<&Path>,
) -> Checked {
    let field = |key| field.clone().key(key);
    let (key, found) = match (&*password, env, file) {
        (None, None, None) => return Ok(()),
        (Some(given), None, None) => ("password", given.reveal().to_owned()),
        (None, Some(name), None) => match std::env::var(name) {
            Ok(found) => ("password_env", found),
            Err(std::env::VarError::NotPresent) => {
                let text = format!("must name an environment variable that is set, {name:?} is not");
                return mistake(field("password_env"), text);
            }
            Err(std::env::VarError::NotUnicode(_)) => {
                return mistake(field("password_env"), format!("must be UTF-8 text, {name:?} is not"));
            }
        },
        (None, None, Some(file)) => {
            let path = directory.join(file);
            match std::fs::read_to_string(&path) {
                Ok(text) => ("password_file", text.lines().next().unwrap_or_default().to_owned()),
                Err(error) => {
                    let text = format!("cannot be read: {}: {error}", path.display());
                    return mistake(field("password_file"), text);
                }
            }
        }
        _ => {
            return mistake(
                field(if env.is_some() { "password_env" } else { "password_file" }),
                "must be the only one: give password, password_env or password_file",
            );
        }
    };
    if found.is_empty() {
        return mistake(field(key), "must not be an empty password");
    }
    *password = Some(Secret::new(found));
    Ok(())
}

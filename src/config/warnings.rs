//! What is allowed but perhaps not meant.

use std::net::IpAddr;

use crate::topology::{Endpoint, Idle};

use super::Config;

/// One line for each.
pub(super) fn warnings(config: &Config) -> Vec<String> {
    let mut warnings = Vec::new();
    if config.user.is_empty() {
        for listen in config.proxy.listen.iter().filter(|listen| !is_local(listen)) {
            warnings.push(format!(
                "proxy.listen: {listen} is reachable from other machines and there is no [[user]]: \
                 anybody there can read and change everything"
            ));
        }
    }
    if let Some(listen) = config.admin.listen.as_ref().filter(|listen| !is_local(listen)) {
        warnings.push(format!("admin.listen: {listen} is reachable from other machines; it asks for no password"));
    }
    if !config.user.is_empty() && config.commands.admin {
        warnings.push("commands.admin: has no effect, because there are [[user]] sections".to_owned());
    }
    let weights = config.backend.iter().map(|one| one.weight);
    if let (Some(least), Some(most)) = (weights.clone().min(), weights.max())
        && most >= least.saturating_mul(10)
    {
        warnings.push(format!("backend.weight: weights of {least} to {most} are very unequal"));
    }
    let cores = std::thread::available_parallelism().map_or(u32::MAX, |cores| cores.get() as u32);
    if config.proxy.threads > cores {
        warnings.push(format!("proxy.threads: {} workers on {cores} cores only take turns", config.proxy.threads));
    }
    // Those behind are the presets', which the file's own may well replace.
    for (index, idle) in config.topology_spec().idle().filter(|(index, _)| *index < config.colocate.len()) {
        let pattern = &config.colocate[index].pattern;
        warnings.push(match idle {
            Idle::Tagged => format!(
                "colocate[{index}].pattern: {pattern:?} has no effect, because its keys have a hash tag of their own: \
                 write {{*}} for the part that is to be hashed"
            ),
            Idle::Behind(earlier) => format!(
                "colocate[{index}].pattern: {pattern:?} has no effect, because colocate[{earlier}] ({:?}) matches all of \
                 its keys and the first rule counts",
                config.colocate[earlier].pattern
            ),
        });
    }
    warnings
}

/// Whether only this machine reaches an address.
fn is_local(endpoint: &Endpoint) -> bool {
    match endpoint {
        Endpoint::Unix(_) => true,
        Endpoint::Tcp { host, .. } => host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback()),
    }
}

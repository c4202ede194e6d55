//! `ringway check`: what a configuration means.

use std::io::{self, Write};

use crate::config::{Config, PlacementKind};
use crate::topology::{ShardId, Topology};

/// Prints shards and their shares, then warnings.
pub(super) fn report(config: &Config, topology: &Topology) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let file = config.file.display();
    let listen: Vec<String> = config.proxy.listen.iter().map(ToString::to_string).collect();
    writeln!(out, "{file}: fine")?;
    writeln!(out, "clients    {}", listen.join(", "))?;
    match &config.admin.listen {
        Some(listen) => writeln!(out, "admin      http://{listen}/")?,
        None => writeln!(out, "admin      none (no metrics, no health)")?,
    }
    let kind = match config.placement.kind {
        PlacementKind::Slots => format!("slots, version {}", config.placement.version),
        PlacementKind::Ketama => "ketama, as twemproxy".to_owned(),
        PlacementKind::Modula => "modula, as twemproxy".to_owned(),
    };
    let presets: Vec<String> = config.placement.presets.iter().map(|name| format!(", preset {name}")).collect();
    writeln!(out, "placement  {kind}; {} colocate rules{}", config.colocate.len(), presets.concat())?;

    let width = |of: fn(&crate::topology::Shard) -> usize| topology.shards().iter().map(of).max().unwrap_or(0).max(7);
    let names = width(|shard| shard.name.len());
    let addresses = width(|shard| shard.endpoint.to_string().len());
    writeln!(out, "\n{:names$}  {:addresses$}  weight  slots  share", "shard", "address")?;
    for (id, shard) in (0..).map(ShardId).zip(topology.shards()) {
        let slots = match config.placement.kind {
            PlacementKind::Slots => topology.slots_of(id).to_string(),
            PlacementKind::Ketama | PlacementKind::Modula => "-".to_owned(),
        };
        let address = shard.endpoint.to_string();
        let share = topology.share(id) * 100.0;
        let home = if id == topology.home() { "  home" } else { "" };
        writeln!(
            out,
            "{:names$}  {address:addresses$}  {:>6}  {slots:>5}  {share:>4.1}%{home}",
            shard.name, shard.weight
        )?;
    }
    let warnings = config.warnings();
    if !warnings.is_empty() {
        writeln!(out)?;
    }
    for warning in warnings {
        writeln!(out, "warning: {warning}")?;
    }
    out.flush()
}

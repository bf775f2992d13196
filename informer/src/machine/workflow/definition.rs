//! Registered definitions. The machine knows names, versions and hashes; who starts a run reads the definition itself from the store.

use super::super::effect::{Effect, Rejection, Reply};
use super::super::event::{PayloadHandle, Ticket};
use super::super::{Cx, Machine};
use proto::{bounds, store};
use std::collections::BTreeMap;

/// What is known of one definition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Known {
    digest: PayloadHandle,
    created_unix_ms: u64,
}

/// What is registered, and what of it no batch has taken yet.
#[derive(Debug, Default)]
pub(super) struct Definitions {
    /// By name and version.
    workflows: BTreeMap<String, BTreeMap<u32, Known>>,
    versions: usize,
    tasks: BTreeMap<String, Known>,
    fresh: BTreeMap<(String, u32), store::DefinitionRow>,
    fresh_tasks: BTreeMap<String, store::TaskDefinitionRow>,
}

impl Definitions {
    pub(super) fn load(
        &mut self,
        workflows: impl IntoIterator<Item = store::DefinitionRow>,
        tasks: impl IntoIterator<Item = store::TaskDefinitionRow>,
    ) {
        let digest = |bytes: &[u8]| PayloadHandle::try_from(bytes).unwrap_or_default();
        for row in workflows {
            let known = Known { digest: digest(&row.digest), created_unix_ms: row.created_unix_ms };
            self.workflows.entry(row.name).or_default().insert(row.version, known);
            self.versions += 1;
        }
        for row in tasks {
            let known = Known { digest: digest(&row.digest), created_unix_ms: row.created_unix_ms };
            self.tasks.insert(row.name, known);
        }
    }

    pub(super) fn take(&mut self) -> (Vec<store::DefinitionRow>, Vec<store::TaskDefinitionRow>) {
        let workflows = std::mem::take(&mut self.fresh).into_values().collect();
        (workflows, std::mem::take(&mut self.fresh_tasks).into_values().collect())
    }

    pub(super) fn is_dirty(&self) -> bool {
        !self.fresh.is_empty() || !self.fresh_tasks.is_empty()
    }

    /// The version of a definition, and whether it was there.
    fn put(&mut self, now_ms: u64, row: store::DefinitionRow, replace: bool) -> Result<(u32, bool), Rejection> {
        let digest = PayloadHandle::try_from(row.digest.as_slice()).unwrap_or_default();
        let known = self.workflows.get(&row.name);
        let latest = known.and_then(|versions| versions.last_key_value());
        let version = match row.version {
            0 => match latest {
                Some((version, known)) if known.digest == digest => return Ok((*version, true)),
                Some((version, _)) => version.saturating_add(1),
                None => 1,
            },
            version => version,
        };
        let old = known.and_then(|versions| versions.get(&version)).copied();
        match old {
            Some(old) if old.digest == digest => return Ok((version, true)),
            Some(_) if !replace => return Err(Rejection::DefinitionConflict { name: row.name, version }),
            None if self.versions >= bounds::DEFINITIONS => {
                return Err(Rejection::DefinitionsFull { limit: bounds::DEFINITIONS });
            }
            Some(_) => {}
            None => self.versions += 1,
        }
        let created_unix_ms = old.map_or(now_ms, |old| old.created_unix_ms);
        self.workflows.entry(row.name.clone()).or_default().insert(version, Known { digest, created_unix_ms });
        let row = store::DefinitionRow { version, created_unix_ms, updated_unix_ms: now_ms, ..row };
        self.fresh.insert((row.name.clone(), version), row);
        Ok((version, false))
    }

    /// Takes one version away, or all (0); says whether there was any.
    fn delete(&mut self, name: &str, version: u32) -> bool {
        let Some(versions) = self.workflows.get_mut(name) else { return false };
        let gone: Vec<u32> = versions.keys().copied().filter(|known| version == 0 || *known == version).collect();
        for version in &gone {
            versions.remove(version);
            let row = store::DefinitionRow {
                name: name.to_owned(),
                version: *version,
                deleted: true,
                ..store::DefinitionRow::default()
            };
            self.fresh.insert((name.to_owned(), *version), row);
        }
        if versions.is_empty() {
            self.workflows.remove(name);
        }
        self.versions -= gone.len();
        !gone.is_empty()
    }

    fn put_task(&mut self, now_ms: u64, row: store::TaskDefinitionRow) -> Result<bool, Rejection> {
        let digest = PayloadHandle::try_from(row.digest.as_slice()).unwrap_or_default();
        let old = self.tasks.get(&row.name).copied();
        match old {
            Some(old) if old.digest == digest => return Ok(true),
            None if self.tasks.len() >= bounds::TASK_DEFINITIONS => {
                return Err(Rejection::DefinitionsFull { limit: bounds::TASK_DEFINITIONS });
            }
            Some(_) | None => {}
        }
        let created_unix_ms = old.map_or(now_ms, |old| old.created_unix_ms);
        self.tasks.insert(row.name.clone(), Known { digest, created_unix_ms });
        let row = store::TaskDefinitionRow { created_unix_ms, updated_unix_ms: now_ms, ..row };
        self.fresh_tasks.insert(row.name.clone(), row);
        Ok(false)
    }

    fn delete_task(&mut self, name: &str) -> bool {
        let existed = self.tasks.remove(name).is_some();
        if existed {
            let row = store::TaskDefinitionRow { name: name.to_owned(), deleted: true, ..Default::default() };
            self.fresh_tasks.insert(name.to_owned(), row);
        }
        existed
    }
}

impl Machine {
    pub(in super::super) fn on_definition_put(
        &mut self,
        cx: &mut Cx<'_>,
        ticket: Ticket,
        row: store::DefinitionRow,
        replace: bool,
    ) {
        let reply = match self.flows.definitions.put(cx.now.wall_ms, row, replace) {
            Ok((version, existed)) => Reply::Definition { version, existed },
            Err(rejection) => Reply::Rejected(rejection),
        };
        self.registered(cx, ticket, reply);
    }

    pub(in super::super) fn on_definition_deleted(
        &mut self,
        cx: &mut Cx<'_>,
        ticket: Ticket,
        name: &str,
        version: u32,
    ) {
        let existed = self.flows.definitions.delete(name, version);
        self.registered(cx, ticket, Reply::Registered { existed });
    }

    pub(in super::super) fn on_task_definition_put(
        &mut self,
        cx: &mut Cx<'_>,
        ticket: Ticket,
        row: store::TaskDefinitionRow,
    ) {
        let reply = match self.flows.definitions.put_task(cx.now.wall_ms, row) {
            Ok(existed) => Reply::Registered { existed },
            Err(rejection) => Reply::Rejected(rejection),
        };
        self.registered(cx, ticket, reply);
    }

    pub(in super::super) fn on_task_definition_deleted(&mut self, cx: &mut Cx<'_>, ticket: Ticket, name: &str) {
        let existed = self.flows.definitions.delete_task(name);
        self.registered(cx, ticket, Reply::Registered { existed });
    }

    fn registered(&mut self, cx: &mut Cx<'_>, ticket: Ticket, reply: Reply) {
        if self.flows.definitions.is_dirty() {
            self.pending.writes += 1;
        }
        cx.effects.push(Effect::Reply { ticket, reply });
    }
}

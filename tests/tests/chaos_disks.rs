//! The faults of the family "disks", each played once.

#![cfg(feature = "faults")]

use anyhow::Result;
use tests::chaos::{damage, disks, identity, lease_page, play};

#[test]
fn an_informer_with_a_full_disk() -> Result<()> {
    play(&disks::INFORMER_FULL)
}

#[test]
fn a_sidecar_with_a_full_disk() -> Result<()> {
    play(&disks::SIDECAR_FULL)
}

#[test]
fn an_informer_whose_disk_fails() -> Result<()> {
    play(&disks::INFORMER_EIO)
}

#[test]
fn a_sidecar_whose_disk_fails() -> Result<()> {
    play(&disks::SIDECAR_EIO)
}

#[test]
fn an_informer_killed_while_its_disk_is_blocked() -> Result<()> {
    play(&disks::INFORMER_BLOCKED)
}

#[test]
fn an_informer_without_power() -> Result<()> {
    play(&disks::INFORMER_POWER)
}

#[test]
fn a_sidecar_without_power() -> Result<()> {
    play(&disks::SIDECAR_POWER)
}

#[test]
fn a_damaged_store() -> Result<()> {
    play(&damage::STORE_PAGE)
}

#[test]
fn a_payload_that_is_altered() -> Result<()> {
    play(&damage::STORE_PAYLOAD)
}

#[test]
fn a_store_whose_log_is_cut() -> Result<()> {
    play(&damage::STORE_LOG_CUT)
}

#[test]
fn a_damaged_ledger() -> Result<()> {
    play(&damage::LEDGER_PAGE)
}

#[test]
fn a_ledger_whose_log_is_cut() -> Result<()> {
    play(&damage::LEDGER_LOG_CUT)
}

#[test]
fn a_sidecar_without_its_ledger() -> Result<()> {
    play(&identity::LEDGER_LOST)
}

#[test]
fn a_sidecar_without_ledger_and_id() -> Result<()> {
    play(&identity::IDENTITY_LOST)
}

#[test]
fn a_sidecar_of_another_informer() -> Result<()> {
    play(&identity::OTHER_INFORMER)
}

#[test]
fn a_sidecar_whose_lease_page_is_harmed() -> Result<()> {
    play(&lease_page::HARMED)
}

#[test]
fn a_sidecar_whose_lease_page_is_harmed_while_its_agent_is_down() -> Result<()> {
    play(&lease_page::HARMED_UNSEEN)
}

#[test]
fn an_informer_from_a_backup() -> Result<()> {
    play(&damage::OLD_BACKUP)
}

#[test]
fn an_informer_from_a_backup_that_is_vouched_for() -> Result<()> {
    play(&damage::OLD_BACKUP_ACCEPTED)
}

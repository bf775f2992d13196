//! The agent's part of [`crate::decoders`].

use super::reports::Reports;
use super::{note as notes, socket, wire};
use prost::Message as _;
use proto::v1;

/// What an informer says on the link.
///
/// # Errors
/// Why it would cost the informer its link.
pub fn informer_message(bytes: &[u8]) -> Result<(), String> {
    let message = v1::InformerMessage::decode(bytes).map_err(|error| error.to_string())?;
    wire::word(message).map(drop).map_err(|error| error.to_string())
}

/// The note in an attempt's record: the assignment, and what is written of it again. `None` if it is none of ours.
pub fn note(bytes: &[u8]) -> Option<(v1::Assign, Vec<u8>)> {
    let assign = notes::read(bytes)?;
    // Whether it holds enough for the machine is not the point here.
    let _ = notes::facts(&assign);
    let written = notes::write(&assign);
    Some((assign, written))
}

/// A line on the socket that tasks talk to.
///
/// # Errors
/// What its sender is told.
pub fn task_request(line: &[u8]) -> Result<Option<v1::Emitted>, String> {
    Ok(socket::hear(line, &Reports::default())?.map(|asked| asked.to_wire()))
}

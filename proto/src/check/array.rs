//! Arrays: one template, many members.

use super::{Faults, shown};
use crate::id::INDEX_MAX;
use crate::{bounds, member, v1};

/// Checks the head of an array but for its template, which [`super::spec`] checks.
///
/// # Errors
/// All that is wrong with it.
pub fn array(head: &v1::ArrayHead) -> Result<(), Faults> {
    let mut faults = Faults::default();
    if head.count > bounds::ARRAY_MEMBERS {
        let remedy = format!("use at most {}, or several arrays", bounds::ARRAY_MEMBERS);
        faults.add("array.count", format!("{} members are over the bound", head.count), remedy);
    } else if head.first.checked_add(head.count.max(1) - 1).is_none_or(|last| last > INDEX_MAX) {
        faults.add("array.first", "the last index is over the bound", format!("end at {INDEX_MAX} at most"));
    }
    if head.max_failures > 0 && !head.limited {
        faults.add("array.max_failures", "it is not said to be meant", "set limited too");
    }
    if matches!(head.spec.as_ref().and_then(|spec| spec.kind.as_ref()), Some(v1::task_spec::Kind::Service(_))) {
        let remedy = "submit its copies as tasks, each with a key of its own";
        faults.add("array.spec", "a service has no end, so an array of it has none", remedy);
    }
    if head.count > 1
        && let Some(destination) = head.spec.as_ref().and_then(member::shared_destination)
    {
        let problem = format!("every member would put a file to {}, or two to one place", shown(destination));
        let remedy =
            format!("write {} where a member's index belongs, and tell outputs apart by a letter", member::PLACE);
        faults.add("array.spec", problem, remedy);
    }
    faults.into_result()
}

/// Checks one item of an array.
///
/// # Errors
/// It is too long.
pub fn item(index: usize, item: &str) -> Result<(), Faults> {
    let mut faults = Faults::default();
    let field = format!("items[{index}]");
    if item.len() > bounds::ITEM_BYTES {
        let problem = format!("{} bytes are over the bound", item.len());
        faults.add(field.as_str(), problem, format!("use at most {}; put larger ones into files", bounds::ITEM_BYTES));
    }
    if item.contains('\0') {
        faults.add(field, "it contains a NUL byte", "leave it out: the member's environment ends the text there");
    }
    faults.into_result()
}

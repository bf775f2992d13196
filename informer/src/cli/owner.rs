//! Who runs this command: the default owner of a task.

use std::{env, fs};

/// The user's name: from the password file, else from the environment (directory services), else `uid-N` (containers).
pub(crate) fn current() -> String {
    let uid = rustix::process::getuid().as_raw();
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    name_in(&passwd, uid)
        .or_else(|| ["USER", "LOGNAME"].iter().find_map(|name| env::var(name).ok().filter(|user| !user.is_empty())))
        .unwrap_or_else(|| format!("uid-{uid}"))
}

/// The name of `uid` in a password file.
fn name_in(passwd: &str, uid: u32) -> Option<String> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let found: u32 = fields.nth(1)?.parse().ok()?;
        (found == uid).then(|| name.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_by_number_and_broken_lines_are_skipped() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nbroken\n:x:7::\nops:x:1000:1000::/home/ops:/bin/sh\n";
        assert_eq!(name_in(passwd, 0).as_deref(), Some("root"));
        assert_eq!(name_in(passwd, 1000).as_deref(), Some("ops"));
        assert_eq!(name_in(passwd, 7), None);
    }
}

//! Worlds in which informer, sidecars and clients show certificates and a token, and a network between two of their namespaces.

use super::{World, binary};
use anyhow::{Context as _, Result, ensure};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

impl World {
    /// Makes certificates and a token, which everything that is started from now on uses; the informer listens on `host`.
    ///
    /// # Errors
    /// They cannot be made.
    pub fn secure(&mut self, host: &str) -> Result<()> {
        self.listen = format!("{host}:0");
        let tls = self.tls();
        certify(&tls, &["--host", host])?;
        self.env = vec![
            ("INFORMER_SERVER_TLS_CERT", tls.join("informer.pem")),
            ("INFORMER_SERVER_TLS_KEY", tls.join("informer-key.pem")),
            ("INFORMER_SERVER_TOKEN_FILE", tls.join("token")),
            ("INFORMER_TLS_CA", tls.join("ca.pem")),
            ("INFORMER_TOKEN_FILE", tls.join("token")),
        ];
        Ok(())
    }

    /// Where certificates and token are.
    #[must_use]
    pub fn tls(&self) -> PathBuf {
        self.dir.join("tls")
    }

    /// Sets a variable for everything that is started from now on.
    pub fn set(&mut self, variable: &'static str, value: PathBuf) {
        self.env.retain(|(name, _)| *name != variable);
        self.env.push((variable, value));
    }

    /// Starts sidecars from now on at the far end of this network.
    pub fn put_sidecars_behind(&mut self, network: &Network) {
        self.wrapper = ["ip", "netns", "exec", &network.name].map(str::to_owned).into();
    }

    /// Starts sidecars from now on beside the informer again.
    pub fn put_sidecars_here(&mut self) {
        self.wrapper.clear();
    }

    /// Has the informer read its certificates and token again.
    pub fn hang_up_informer(&self) {
        if let Some(child) = &self.informer {
            super::signal(i32::try_from(child.id()).unwrap_or(0), rustix::process::Signal::HUP);
        }
    }
}

/// Makes certificates in a directory by the command that users are told.
///
/// # Errors
/// They cannot be made.
pub fn certify(dir: &Path, args: &[&str]) -> Result<()> {
    let output =
        Command::new(binary("informer")).arg("certificate").arg(dir).args(args).stdin(Stdio::null()).output()?;
    ensure!(output.status.success(), "informer certificate: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// A pair of virtual network cards, one of them in a network namespace of its own. Removed when dropped.
pub struct Network {
    name: String,
    /// The address of the end outside of the namespace.
    pub host: String,
}

impl Network {
    /// Makes it.
    ///
    /// # Errors
    /// A tool or a right is missing.
    pub fn new() -> Result<Self> {
        // Of this process alone, and no network of four addresses overlaps another's.
        let id = std::process::id() % (64 * 256);
        let (third, fourth) = (id / 64, id % 64 * 4);
        let network = Self { name: format!("its{id}"), host: format!("10.232.{third}.{}", fourth + 1) };
        let (name, far) = (&network.name, format!("10.232.{third}.{}", fourth + 2));
        run(&format!("ip netns add {name}"))?;
        run(&format!("ip link add {name}a type veth peer name {name}b netns {name}"))?;
        run(&format!("ip addr add {}/30 dev {name}a", network.host))?;
        run(&format!("ip link set {name}a up"))?;
        run(&format!("ip -n {name} addr add {far}/30 dev {name}b"))?;
        run(&format!("ip -n {name} link set {name}b up"))?;
        run(&format!("ip -n {name} link set lo up"))?;
        Ok(network)
    }

    /// Runs a command line (without a shell) at the far end.
    ///
    /// # Errors
    /// It fails.
    pub fn at_far_end(&self, line: &str) -> Result<()> {
        run(&format!("ip netns exec {} {line}", self.name))
    }

    /// The network card at this end.
    #[must_use]
    pub fn card(&self) -> String {
        format!("{}a", self.name)
    }

    /// The network card at the far end.
    #[must_use]
    pub fn far_card(&self) -> String {
        format!("{}b", self.name)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // The pair goes with one of its ends; what is not there any more need not be removed.
        let _ = run(&format!("ip link del {}a", self.name));
        let _ = run(&format!("ip netns del {}", self.name));
    }
}

/// Runs a command line without a shell, with the places where a system's tools are; what it says is its error.
///
/// # Errors
/// The program is not there or fails.
pub fn run(line: &str) -> Result<()> {
    let mut words = line.split_whitespace();
    let program = words.next().context("a program")?;
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let output =
        Command::new(program).args(words).env("PATH", path).output().with_context(|| format!("no {program}"))?;
    ensure!(output.status.success(), "`{line}`: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}

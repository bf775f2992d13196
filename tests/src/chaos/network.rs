//! Cuts, losses, resets and delays between a sidecar and its informer, while the other sidecar's way is good.
//!
//! As root the far sidecar is in a network namespace behind a veth pair, where nftables drops and rejects and tbf throttles real packets
//! (over TLS, since that is no loopback). Without root a TCP proxy stands for the network; loss and throttling are skipped then.

use super::flow::{self, BEAT, Flow, between, sidecar_args, until};
use super::job::{mix, only};
use super::{Case, Family, Need, Outcome, Round, now};
use crate::proxy::Proxy;
use crate::world::World;
use crate::world::secure::{Network, run};
use anyhow::{Context as _, Result};
use keeper::lease::LeasePage;
use std::time::Duration;

/// The cases of this family.
pub static CASES: &[&Case] = &[&CUT, &CUT_UP, &CUT_DOWN, &LOSS, &RESET, &FLAP, &THROTTLE, &DELAY];

/// One of every kind, twice.
const JOBS: usize = 20;
/// Tasks that stay, of each of the two kinds.
const STAYING: usize = 2;
/// Room for all on either box, so that whatever is lost on one can start on the other.
const ROOMY: &[&str] = &["--slots", "16", "--cpu", "16000"];
/// How long a disturbance lasts that is no cut: several beats, and more than a lease.
const DISTURBED: Duration = Duration::from_secs(4);
/// The longest that bytes are held back; shorter than a beat, or it would be a cut.
const HELD_BACK: Duration = Duration::from_millis(300);
/// What a link is throttled to: a beat still goes through in time, a log does not.
const RATE: &str = "64kbit";
const WITH_NFT: &[Need] = &[Need::Root, Need::Tool("ip"), Need::Tool("nft")];

/// Nothing passes, either way.
pub static CUT: Case = Case {
    fault: "network cut both ways",
    how: "nftables drops every packet (without root: the proxy holds every byte) until the sidecar is lost, and up to 2 s more",
    family: Family::Network,
    needs: &[],
    run: |round| cut(round, Way::Both),
};

/// Nothing passes up.
pub static CUT_UP: Case = Case {
    fault: "network cut from the sidecar to the informer",
    how: "nftables drops what leaves the sidecar, on open connections",
    family: Family::Network,
    needs: &[],
    run: |round| cut(round, Way::Up),
};

/// Nothing passes down.
pub static CUT_DOWN: Case = Case {
    fault: "network cut from the informer to the sidecar",
    how: "nftables drops what comes to the sidecar, on open connections",
    family: Family::Network,
    needs: &[],
    run: |round| cut(round, Way::Down),
};

/// Three packets of ten are lost.
pub static LOSS: Case = Case {
    fault: "30 % of packets lost",
    how: "nftables drops 30 of 100 packets by chance, both ways, for 4 s",
    family: Family::Network,
    needs: WITH_NFT,
    run: |round| {
        disturb(round, Wire::lose, "what beats still arrive in time keeps the lease; what do not, cost an attempt")
    },
};

/// Connections are reset again and again.
pub static RESET: Case = Case {
    fault: "connections reset",
    how: "nftables rejects with TCP resets (without root: the proxy closes with RST) thrice, for up to 0.5 s each",
    family: Family::Network,
    needs: &[],
    run: |round| flap(round, Wire::reset, "sidecars link again and tell what they hold"),
};

/// Up and down.
pub static FLAP: Case = Case {
    fault: "network flaps",
    how: "cut both ways and healed thrice, for up to 0.5 s each",
    family: Family::Network,
    needs: &[],
    run: |round| flap(round, |wire| wire.cut(Way::Both), "nothing, or a lease ends and its tasks are tried again"),
};

/// Less than is wanted.
pub static THROTTLE: Case = Case {
    fault: "network throttled",
    how: "tbf lets 64 kbit/s through on both ends for 4 s",
    family: Family::Network,
    needs: &[Need::Root, Need::Tool("ip"), Need::Tool("nft"), Need::Tool("tc")],
    run: |round| disturb(round, Wire::throttle, "logs wait, beats arrive"),
};

/// Late, and not in order.
pub static DELAY: Case = Case {
    fault: "delay, and reordering of connections",
    how: "the proxy holds every piece back for up to 0.3 s, each connection differently, for 4 s",
    family: Family::Network,
    needs: &[],
    run: delay,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Both,
    Up,
    Down,
}

/// What lies between the far sidecar (number 0) and the informer.
enum Wire {
    Packets(Network),
    Bytes(Proxy),
}

impl Wire {
    fn rule(network: &Network, hook: &str, rule: &str) -> Result<()> {
        let chain = format!("nft add chain inet harm {hook} {{ type filter hook {hook} priority 0 ; }}");
        network.at_far_end("nft add table inet harm")?;
        network.at_far_end(&chain)?;
        network.at_far_end(&format!("nft add rule inet harm {hook} {rule}"))
    }

    fn cut(&self, way: Way) -> Result<()> {
        match self {
            Self::Packets(network) => {
                let hooks: &[&str] = match way {
                    Way::Both => &["input", "output"],
                    Way::Up => &["output"],
                    Way::Down => &["input"],
                };
                hooks.iter().try_for_each(|hook| Self::rule(network, hook, "drop"))
            }
            Self::Bytes(proxy) => {
                match way {
                    Way::Both => proxy.cut(),
                    Way::Up => proxy.cut_up(),
                    Way::Down => proxy.cut_down(),
                }
                Ok(())
            }
        }
    }

    fn lose(&self) -> Result<()> {
        let Self::Packets(network) = self else { return Err(super::Absent("needs root".to_owned()).into()) };
        ["input", "output"].iter().try_for_each(|hook| Self::rule(network, hook, "numgen random mod 100 < 30 drop"))
    }

    fn reset(&self) -> Result<()> {
        match self {
            Self::Packets(network) => Self::rule(network, "output", "meta l4proto tcp reject with tcp reset"),
            Self::Bytes(proxy) => {
                proxy.reset();
                Ok(())
            }
        }
    }

    fn throttle(&self) -> Result<()> {
        let Self::Packets(network) = self else { return Err(super::Absent("needs root".to_owned()).into()) };
        let shape = |card: &str| format!("tc qdisc add dev {card} root tbf rate {RATE} burst 4kb latency 400ms");
        run(&shape(&network.card()))?;
        network.at_far_end(&shape(&network.far_card()))
    }

    fn heal(&self) -> Result<()> {
        match self {
            Self::Packets(network) => {
                network.at_far_end("nft flush ruleset")?;
                // Absent unless it was throttled.
                let _none = run(&format!("tc qdisc del dev {} root", network.card()));
                let _none = network.at_far_end(&format!("tc qdisc del dev {} root", network.far_card()));
            }
            Self::Bytes(proxy) => proxy.heal(),
        }
        Ok(())
    }
}

/// An informer, a far sidecar and a near one, and tasks on both. The wire goes after the flow.
fn begin(round: &mut Round, packets: bool) -> Result<(Wire, Flow)> {
    let mut world = flow::world(round)?;
    let wire = if packets && WITH_NFT.iter().all(|need| need.missing().is_none()) {
        far_by_packets(&mut world, round)?
    } else {
        world.start_informer(&[])?;
        let proxy = Proxy::to(world.url())?;
        world.start_sidecar_through(0, proxy.url(), &[], &[])?;
        Wire::Bytes(proxy)
    };
    world.start_sidecar(1, ROOMY, &[])?;
    world.wait_linked(2)?;
    let dir = flow::probes(&world);
    let mut jobs = only("held", STAYING, &dir, &mut round.rng);
    jobs.extend(only("kept", STAYING, &dir, &mut round.rng));
    jobs.extend(mix(JOBS, &dir, &mut round.rng));
    Ok((wire, Flow::over(round, world, jobs)?))
}

fn far_by_packets(world: &mut World, round: &Round) -> Result<Wire> {
    let network = Network::new().map_err(|error| super::Absent(format!("{error:#}")))?;
    world.secure(&network.host)?;
    flow::settings(world, round);
    world.start_informer(&[])?;
    world.put_sidecars_behind(&network);
    world.start_sidecar(0, sidecar_args(), &[])?;
    world.put_sidecars_here();
    Ok(Wire::Packets(network))
}

fn lease_end(flow: &Flow) -> Result<Duration> {
    let page = LeasePage::open(&flow.world.sidecars[0].data)?;
    Ok(Duration::from_nanos(page.deadline().context("a lease is published")?))
}

/// A moment of chance within which something lasts.
fn last(round: &mut Round, longest: Duration) {
    let longest = u64::try_from(longest.as_millis()).unwrap_or(0);
    std::thread::sleep(Duration::from_millis(round.rng.range(0, longest)));
}

fn cut(round: &mut Round, way: Way) -> Result<Outcome> {
    let (wire, mut flow) = begin(round, true)?;
    let id = flow.sidecar_id(0)?;
    let starts = usize::try_from(round.rng.range(4, 20))?;
    flow.wait_moment(round, starts)?;
    let begun = flow.harm("network cut");
    wire.cut(way)?;
    let mut seen = None;
    if way != Way::Down {
        let lost = flow.wait_live(&id, false)?;
        seen = between(begun, lost);
    }
    until("the lease has ended", &mut flow, |flow| Ok((lease_end(flow)? < now()).then_some(())))?;
    last(round, BEAT.1 * 4);
    wire.heal()?;
    let back = now();
    let live = flow.wait_live(&id, true)?;
    flow.heal("network healed");
    let happened = "`stop` tasks end with the lease and start elsewhere after it; of the others the first result counts, the rest is late";
    flow.outcome(happened, seen, between(back, live))
}

fn disturb(round: &mut Round, harm: fn(&Wire) -> Result<()>, happened: &str) -> Result<Outcome> {
    let (wire, mut flow) = begin(round, true)?;
    let id = flow.sidecar_id(0)?;
    let starts = usize::try_from(round.rng.range(4, 12))?;
    flow.wait_moment(round, starts)?;
    flow.harm("network disturbed");
    harm(&wire)?;
    last(round, DISTURBED);
    wire.heal()?;
    let back = now();
    let live = flow.wait_live(&id, true)?;
    flow.heal("network healed");
    flow.outcome(happened, None, between(back, live))
}

fn flap(round: &mut Round, harm: fn(&Wire) -> Result<()>, happened: &str) -> Result<Outcome> {
    let (wire, mut flow) = begin(round, true)?;
    let id = flow.sidecar_id(0)?;
    let starts = usize::try_from(round.rng.range(4, 12))?;
    flow.wait_moment(round, starts)?;
    flow.harm("network flaps");
    let mut back = now();
    for _ in 0..3 {
        harm(&wire)?;
        last(round, BEAT.1);
        wire.heal()?;
        back = now();
        last(round, BEAT.1);
    }
    let live = flow.wait_live(&id, true)?;
    flow.heal("network healed");
    flow.outcome(happened, None, between(back, live))
}

fn delay(round: &mut Round) -> Result<Outcome> {
    let (wire, mut flow) = begin(round, false)?;
    let id = flow.sidecar_id(0)?;
    let Wire::Bytes(proxy) = &wire else { unreachable!("a proxy was asked for") };
    flow.harm("bytes held back");
    proxy.delay(HELD_BACK);
    last(round, DISTURBED);
    proxy.heal();
    let back = now();
    let live = flow.wait_live(&id, true)?;
    flow.heal("bytes pass");
    flow.outcome("all arrives later, and counts once", None, between(back, live))
}

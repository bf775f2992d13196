//! An informer that dies at one boundary again and again, and is started each time.

use super::life::Watched;
use super::{World, wait_for};
use anyhow::{Result, bail};

/// Where an informer may die: around every event, every commit, and each kind of effect.
pub const INFORMER_POINTS: [&str; 7] =
    ["before-apply", "after-apply", "before-commit", "after-commit", "after-reply", "mid-effects", "after-assign"];

/// Deaths after which something else is wrong.
const MANY: usize = 50;

/// An informer that is started again whenever it has died, each time to live a little longer; and one sidecar.
pub struct Lives {
    /// Where it lives.
    pub world: World,
    point: String,
    /// How often it has died.
    pub deaths: usize,
}

/// What became of a client.
pub struct Told {
    /// Its exit status was 0.
    pub succeeded: bool,
    /// What it wrote.
    pub stdout: Vec<u8>,
}

impl Lives {
    /// A world whose informer dies at this point.
    ///
    /// # Errors
    /// Something does not start.
    pub fn begin(point: &str) -> Result<Self> {
        let mut world = World::with_sidecars(1)?;
        world.kill_informer();
        let mut lives = Self { world, point: point.to_owned(), deaths: 0 };
        lives.live()?;
        Ok(lives)
    }

    /// Starts it again if it has died.
    ///
    /// # Errors
    /// It dies too often.
    pub fn tend(&mut self) -> Result<()> {
        if self.world.informer_has_ended() {
            self.deaths += 1;
            self.live()?;
        }
        Ok(())
    }

    /// It may die before it listens, too.
    fn live(&mut self) -> Result<()> {
        loop {
            // Growing, so that progress is made: at the first boundary of a life nothing was done yet.
            let nth = self.deaths * self.deaths / 2 + 1;
            let plan = format!("{}:{nth}", self.point);
            match self.world.start_informer(&[("INFORMER_FAILPOINT", &plan)]) {
                Ok(()) => return Ok(()),
                Err(error) if self.deaths > MANY => return Err(error),
                Err(_) => self.deaths += 1,
            }
        }
    }

    /// Runs a client to its end.
    ///
    /// # Errors
    /// It does not end.
    pub fn run(&mut self, args: &[&str]) -> Result<Told> {
        let mut client = Watched::new(self.world.informer_started(args)?)?;
        wait_for("a client ends", || {
            self.tend().ok()?;
            (!client.runs()).then_some(())
        })?;
        let succeeded = client.wait()?.success();
        Ok(Told { succeeded, stdout: client.stdout.clone() })
    }

    /// Runs a client again and again until it succeeds, as a user would; what it wrote.
    ///
    /// # Errors
    /// It never does.
    pub fn insist(&mut self, args: &[&str]) -> Result<Vec<u8>> {
        for _ in 0..MANY * 2 {
            let told = self.run(args)?;
            if told.succeeded {
                return Ok(told.stdout);
            }
        }
        bail!("{args:?} never succeeds: {}", self.world.log("informer.log"))
    }
}

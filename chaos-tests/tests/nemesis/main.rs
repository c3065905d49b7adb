//! Every class of faults, on real processes: it is in force (shown by what it does, not by what it says of itself), it is
//! healed, and the cluster is sound afterwards, with a trickle of submits all the while.
//!
//! What needs root says so loudly on stderr where there is none, and passes.
#![allow(clippy::unwrap_used)]

mod data;
mod disks;
mod network;
mod nodes;
mod proxy;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rand::SeedableRng as _;
use rand::rngs::StdRng;
use steersman_chaos_tests::audit;
use steersman_chaos_tests::bed::{Bed, Network, Wanted};
use steersman_chaos_tests::load::Load;
use steersman_chaos_tests::nemesis::{self, Active, Class, Skipped};
use steersman_chaos_tests::spec::{group, nothing};

/// Healing may replace a master; what was submitted before runs meanwhile.
const LATEST: Duration = Duration::from_secs(60);

/// Chooses whom and how the faults hit.
const SEED: &str = "NEMESIS_SEED";

/// A bed with a load, and dice.
struct Story {
    bed: Bed,
    load: Load,
    /// Its client is told of new masters: all that it knew at first may be replaced.
    dice: StdRng,
    folder: PathBuf,
}

/// What most stories want: three masters, two workers, a namespace for each.
fn wanted(test: &str) -> Wanted {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("runs").join(format!("nemesis-{test}"));
    let network = Some(Network::Namespaces);
    let seed = std::env::var(SEED).ok().and_then(|seed| seed.parse().ok()).unwrap_or(11);
    eprintln!("{test}: {SEED}={seed}");
    Wanted { masters: 3, workers: 2, network, seed, folder, separate_disks: false, shim: true }
}

impl Story {
    /// None where this process may not do what the story needs.
    async fn begin(test: &str, wanted: Wanted) -> Option<Self> {
        let folder = wanted.folder.clone();
        let _ = std::fs::remove_dir_all(&folder);
        let (seed, disks) = (wanted.seed, wanted.separate_disks);
        let namespaces = wanted.network == Some(Network::Namespaces);
        if namespaces && let Err(error) = steersman_chaos_tests::bed::router::possible() {
            eprintln!("SKIPPED {test}: {error:#}");
            return None;
        }
        let bed = Bed::start(wanted).await.unwrap();
        if disks && !bed.missing().is_empty() {
            eprintln!("SKIPPED {test}: {:?}", bed.missing());
            return None;
        }
        let client = bed.client();
        let load = Load::start(&client, 1, group(nothing(), 1));
        load.answered(5).await;
        Some(Self { bed, load, dice: StdRng::seed_from_u64(seed), folder })
    }

    /// Injects, and waits while that is not possible at the moment.
    async fn inject(&mut self, class: Class) -> Active {
        let began = Instant::now();
        loop {
            match nemesis::inject(&mut self.bed, class, &mut self.dice).await {
                Ok(active) => {
                    eprintln!("{class}: {} ({:?})", active.target, began.elapsed());
                    return active;
                }
                Err(Skipped::NotNow(why)) if began.elapsed() < LATEST => {
                    eprintln!("{class} not now: {why}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                Err(other) => panic!("{class}: {other}"),
            }
        }
    }

    /// Heals, once the fault was in force for as long as it takes.
    async fn heal(&mut self, active: Active) {
        let rest = active.at_least.saturating_sub(active.since.elapsed());
        tokio::time::sleep(rest).await;
        let (class, began) = (active.class, Instant::now());
        nemesis::heal(&mut self.bed, active).await.unwrap();
        eprintln!("{class} healed ({:?})", began.elapsed());
        self.load.answered(3).await;
        assert_eq!(self.bed.impaired(), [].into(), "after {class}");
        assert_eq!(self.bed.crashed(), Vec::<String>::new(), "after {class}");
    }

    /// A fault from its beginning to its end. `works` sees it in force.
    async fn through(&mut self, class: Class, works: impl AsyncFnOnce(&mut Bed, &Active)) {
        let active = self.inject(class).await;
        works(&mut self.bed, &active).await;
        self.heal(active).await;
    }

    /// Everything healed, everything finished, nothing lost.
    async fn end(mut self) {
        self.bed.heal_all().await.unwrap();
        let report = self.load.stop().await;
        assert_eq!(report.failed, Vec::<String>::new(), "submits whose client gave up");
        audit::sound(&self.bed.client(), &report.acknowledged, LATEST).await;
        assert_eq!(self.bed.crashed(), Vec::<String>::new());
        self.bed.stop().await;
        assert_eq!(panics(&self.folder), Vec::<String>::new());
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// What the nodes' logs tell of panics, also of nodes that were expected to end.
fn panics(folder: &Path) -> Vec<String> {
    let nodes = std::fs::read_dir(folder).unwrap().map(|node| node.unwrap().path().join("node.log"));
    let logs = nodes.filter_map(|log| Some((std::fs::read(&log).ok()?, log)));
    let lines = logs.flat_map(|(text, log)| {
        let text = String::from_utf8_lossy(&text).into_owned();
        let told = text.lines().filter(|line| line.contains("panicked at"));
        told.map(|line| format!("{}: {line}", log.display())).collect::<Vec<_>>()
    });
    lines.collect()
}

#[test]
fn every_class_has_a_name_of_its_own() {
    let names: std::collections::BTreeSet<&str> = Class::all().iter().map(|class| class.name()).collect();
    assert_eq!(names.len(), Class::all().len());
    assert!(Class::all().iter().all(|class| Class::of_name(class.name()) == Some(*class)));
}

//! `cluster verify`: every master is asked what it finds out about itself, and the answers are compared.
//!
//! What always holds: nothing is repaired or stopped from here; a master that did not answer, or has no digest, is a finding
//! of its own, never a pass. Digests are compared at one log index, which a marker in the log has made.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::future::join_all;
use steersman_proto::v1::{AuditRequest, VerifyRequest, VerifyResponse};

use crate::Client;
use crate::cluster::service;
use crate::error::Error;
use crate::retry::{Call, Kind};

/// A master waits up to 10 s for its digest, then checks a copy of its state; a deep look reads its whole log.
const VERIFY_EXTRA: Duration = Duration::from_secs(60);

/// What all masters found.
#[derive(Debug, Clone)]
pub struct Verification {
    /// The log index at which digests were taken.
    pub index: u64,
    /// By address, in the order of [`Client::masters`].
    pub masters: Vec<(String, Result<VerifyResponse, Error>)>,
}

/// Whether something is as it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Yes.
    Ok,
    /// No.
    Failed,
    /// It could not be looked at.
    Unknown,
}

impl Verdict {
    /// `ok`, `failed` or `unknown`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Failed => "failed",
            Self::Unknown => "unknown",
        }
    }
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// `masters`, `digest`, `invariants`, `log`, `snapshot`, `membership`, `version`, `format level` or `cluster`.
    pub check: &'static str,
    /// At which master; `None` for what concerns all of them.
    pub master: Option<u64>,
    /// The result.
    pub verdict: Verdict,
    /// For people.
    pub detail: String,
}

impl Client {
    /// Puts an audit's marker into the log; returns its index. Harmless, as often as one likes.
    ///
    /// # Errors
    /// As every read; there must be a leader.
    pub async fn audit(&self) -> Result<u64, Error> {
        let call = Call::new(Kind::Read);
        let answer =
            self.unary(call, AuditRequest {}, |channel, request| async move { service(channel).audit(request).await });
        Ok(answer.await?.log_index)
    }

    /// What the master at `address` finds out about itself. One try.
    ///
    /// # Errors
    /// [`crate::Class::Unavailable`] when it cannot be reached in time.
    pub async fn verify_of(&self, address: &str, request: VerifyRequest) -> Result<VerifyResponse, Error> {
        let call = Call::new(Kind::Read).extra(VERIFY_EXTRA);
        let send = |channel, request| async move { service(channel).verify(request).await };
        self.only(address).unary(call, request, send).await
    }

    /// Has every master look at itself, at one log index; `deep` also reads logs and snapshots from their disks.
    ///
    /// # Errors
    /// When there is no leader to put the marker into the log.
    pub async fn verify(&self, deep: bool) -> Result<Verification, Error> {
        // Learns every member's address on the way.
        self.info_all().await;
        let index = self.audit().await?;
        let asks = self.masters().into_iter().map(|address| async move {
            let answer = self.verify_of(&address, VerifyRequest { at_index: index, deep }).await;
            (address, answer)
        });
        Ok(Verification { index, masters: join_all(asks).await })
    }
}

impl Verification {
    /// The answers, one per master, by id.
    pub fn answers(&self) -> BTreeMap<u64, &VerifyResponse> {
        let found = self.masters.iter().filter_map(|(_, answer)| answer.as_ref().ok());
        found.map(|answer| (answer.self_.as_ref().map_or(0, |own| own.id), answer)).collect()
    }

    /// Who votes, by the answer of whoever is furthest.
    pub fn voters(&self) -> BTreeSet<u64> {
        let answers = self.answers();
        let furthest = answers.values().max_by_key(|answer| answer.applied_index);
        furthest.map(|answer| answer.voters.iter().copied().collect()).unwrap_or_default()
    }

    /// Voters that answered.
    pub fn answered(&self) -> usize {
        let answers = self.answers();
        self.voters().iter().filter(|voter| answers.contains_key(voter)).count()
    }

    /// Everything is as it should be, and everybody answered.
    pub fn passed(&self) -> bool {
        self.findings().iter().all(|finding| finding.verdict == Verdict::Ok)
    }

    /// Everything that was looked at.
    pub fn findings(&self) -> Vec<Finding> {
        let answers = self.answers();
        let mut findings = vec![self.all_there(&answers)];
        findings.extend(self.digests(&answers));
        findings.extend(own_checks(&answers));
        findings
            .push(same("membership", &answers, |one| format!("voters {:?}, learners {:?}", one.voters, one.learners)));
        findings.push(same("version", &answers, |one| one.version.clone()));
        findings.push(same("format level", &answers, |one| one.format_level.to_string()));
        findings.push(same("cluster", &answers, |one| one.cluster_id.clone()));
        findings
    }

    fn all_there(&self, answers: &BTreeMap<u64, &VerifyResponse>) -> Finding {
        let voters = self.voters();
        let silent: Vec<u64> = voters.iter().filter(|voter| !answers.contains_key(voter)).copied().collect();
        let verdict = if silent.is_empty() && !voters.is_empty() { Verdict::Ok } else { Verdict::Unknown };
        let (up, all) = (voters.len() - silent.len(), voters.len());
        let detail = match silent.is_empty() {
            true => format!("{up} of {all} answer"),
            false => format!("{up} of {all} answer; not {silent:?}"),
        };
        Finding { check: "masters", master: None, verdict, detail }
    }

    fn digests(&self, answers: &BTreeMap<u64, &VerifyResponse>) -> Vec<Finding> {
        let need = self.voters().len() / 2 + 1;
        let count = |digest: &str| answers.values().filter(|other| other.digest == digest).count();
        let told: BTreeSet<&str> =
            answers.values().map(|one| one.digest.as_str()).filter(|digest| !digest.is_empty()).collect();
        let finding = |(&master, answer): (&u64, &&VerifyResponse)| {
            let (digest, index) = (&answer.digest, self.index);
            let (verdict, words) = match digest.as_str() {
                "" => (Verdict::Unknown, "none".to_owned()),
                _ if told.len() == 1 => (Verdict::Ok, digest.clone()),
                _ if count(digest) >= need => (Verdict::Ok, format!("{digest}, as a majority has it")),
                _ => (Verdict::Failed, format!("{digest}, not that of the others")),
            };
            Finding { check: "digest", master: Some(master), verdict, detail: format!("{words} at index {index}") }
        };
        answers.iter().map(finding).collect()
    }
}

/// What each master checked by itself.
fn own_checks(answers: &BTreeMap<u64, &VerifyResponse>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for check in ["invariants", "log", "snapshot"] {
        for (&master, answer) in answers {
            let Some(found) = answer.checks.iter().find(|found| found.name == check) else { continue };
            let verdict = if found.ok { Verdict::Ok } else { Verdict::Failed };
            findings.push(Finding { check, master: Some(master), verdict, detail: found.detail.clone() });
        }
    }
    findings
}

/// Whether all say the same.
fn same(
    check: &'static str,
    answers: &BTreeMap<u64, &VerifyResponse>,
    word: impl Fn(&VerifyResponse) -> String,
) -> Finding {
    let words: BTreeSet<String> = answers.values().map(|answer| word(answer)).collect();
    let verdict = if words.len() == 1 { Verdict::Ok } else { Verdict::Failed };
    let detail = match words.len() {
        1 => words.into_iter().collect(),
        _ => answers.iter().map(|(id, answer)| format!("master {id}: {}", word(answer))).collect::<Vec<_>>().join("; "),
    };
    Finding { check, master: None, verdict, detail }
}

#[cfg(test)]
mod tests {
    use super::*;
    use steersman_proto::v1::{MasterAddress, VerifyCheck};

    fn answer(id: u64, digest: &str) -> VerifyResponse {
        VerifyResponse {
            self_: Some(MasterAddress { id, ..MasterAddress::default() }),
            at_index: 9,
            digest: digest.to_owned(),
            checks: vec![VerifyCheck { name: "log".to_owned(), ok: true, detail: "entries 1 to 9".to_owned() }],
            voters: vec![1, 2, 3],
            version: "1".to_owned(),
            applied_index: 9,
            ..VerifyResponse::default()
        }
    }

    fn bad(answers: Vec<VerifyResponse>) -> Vec<(&'static str, Option<u64>, Verdict)> {
        let masters = answers.into_iter().map(|answer| ("m".to_owned(), Ok(answer))).collect();
        let verification = Verification { index: 9, masters };
        let bad = verification.findings().into_iter().filter(|finding| finding.verdict != Verdict::Ok);
        bad.map(|finding| (finding.check, finding.master, finding.verdict)).collect()
    }

    #[test]
    fn each_way_to_be_wrong_is_found_at_the_right_master() {
        use Verdict::{Failed, Unknown};
        assert_eq!(bad(vec![answer(1, "a"), answer(2, "a"), answer(3, "a")]), []);
        assert_eq!(bad(vec![answer(1, "a"), answer(2, "a"), answer(3, "b")]), [("digest", Some(3), Failed)]);
        assert_eq!(bad(vec![answer(1, "a"), answer(2, "a")]), [("masters", None, Unknown)]);
        assert_eq!(bad(vec![answer(1, "a"), answer(2, ""), answer(3, "a")]), [("digest", Some(2), Unknown)]);
        let split = bad(vec![answer(1, "a"), answer(2, "b"), answer(3, "c")]);
        assert_eq!(split.iter().map(|(_, master, _)| *master).collect::<Vec<_>>(), [Some(1), Some(2), Some(3)]);
        let damaged = VerifyCheck { name: "log".to_owned(), ok: false, detail: "entry 7".to_owned() };
        let third = VerifyResponse { checks: vec![damaged], version: "2".to_owned(), ..answer(3, "a") };
        let found = bad(vec![answer(1, "a"), answer(2, "a"), third]);
        assert_eq!(found, [("log", Some(3), Failed), ("version", None, Failed)]);
        let moved = VerifyResponse { voters: vec![1, 2], ..answer(2, "a") };
        assert_eq!(bad(vec![answer(1, "a"), moved, answer(3, "a")]), [("membership", None, Failed)]);
    }
}

//! Typed calls of `steersman.v1.Cluster`: the masters themselves.
//!
//! What always holds: [`Client::info_of`] and [`Client::info_all`] ask masters directly and work without a leader;
//! membership changes and step-downs are never repeated once a master may have acted on them.

use std::time::Duration;

use futures::future::join_all;
use steersman_proto::v1::cluster_client::ClusterClient;
use steersman_proto::v1::{
    AddMasterRequest, InfoRequest, InfoResponse, MasterAddress, MembershipResponse, PromoteMasterRequest,
    RemoveMasterRequest, SaveSnapshotRequest, SnapshotChunk, StepDownRequest, StepDownResponse,
};
use tonic::transport::Channel;

use crate::channels::Connection;
use crate::error::Error;
use crate::redirect::LeaderHint;
use crate::retry::{Call, Kind};
use crate::{Client, MESSAGE_BYTES_MAX};

/// What a change of office or membership may take longer than other calls: a learner has to catch up first.
const MEMBERSHIP_EXTRA: Duration = Duration::from_secs(20);

pub(crate) fn service(connection: Connection) -> ClusterClient<Channel> {
    ClusterClient::new(connection.channel)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX)
}

/// A snapshot on its way.
pub struct SnapshotDownload {
    /// The master that sends it.
    pub master: String,
    stream: tonic::Streaming<SnapshotChunk>,
}

impl SnapshotDownload {
    /// The next chunk; `None` at the end.
    ///
    /// # Errors
    /// When the stream breaks: begin again, a snapshot cannot be resumed.
    pub async fn next(&mut self) -> Result<Option<SnapshotChunk>, Error> {
        self.stream.message().await.map_err(|status| Error::of_one_try(&self.master, &status, false))
    }
}

impl Client {
    /// What some master knows, without asking anybody.
    ///
    /// # Errors
    /// As every read.
    pub async fn info(&self) -> Result<InfoResponse, Error> {
        let call = Call::new(Kind::Read);
        let answer =
            self.unary(call, InfoRequest {}, |channel, request| async move { service(channel).info(request).await });
        let info = answer.await?;
        self.learn_info(&info);
        Ok(info)
    }

    /// What the master at `address` knows. One try, no redirects.
    ///
    /// # Errors
    /// [`crate::Class::Unavailable`] when it cannot be reached in time.
    pub async fn info_of(&self, address: &str) -> Result<InfoResponse, Error> {
        self.only(address).info().await
    }

    /// Asks all known masters at the same time; those that they name and that were not known are asked as well. The order
    /// is that of [`Client::masters`].
    pub async fn info_all(&self) -> Vec<(String, Result<InfoResponse, Error>)> {
        let mut answers = self.info_of_each(self.masters()).await;
        let known = self.masters();
        let new = known.into_iter().filter(|address| !answers.iter().any(|(asked, _)| asked == address)).collect();
        answers.extend(self.info_of_each(new).await);
        answers
    }

    async fn info_of_each(&self, addresses: Vec<String>) -> Vec<(String, Result<InfoResponse, Error>)> {
        let asks = addresses.into_iter().map(|address| async move {
            let answer = self.info_of(&address).await;
            (address, answer)
        });
        join_all(asks).await
    }

    fn learn_info(&self, info: &InfoResponse) {
        let addresses = info.masters.iter().filter_map(|master| master.address.as_ref()).map(|a| a.api.as_str());
        self.learn_masters(addresses.filter(|api| !api.is_empty()));
        if let Some(leader) = &info.leader {
            self.inner.learn(&LeaderHint::from_info(leader));
        }
    }

    /// Hands leadership over; `to` 0 lets the leader choose the follower that is furthest.
    ///
    /// # Errors
    /// `MASTER_NOT_FOUND`, `FAILED_PRECONDITION`, or [`crate::Class::OutcomeUnknown`] when no answer came.
    pub async fn step_down(&self, to: u64) -> Result<StepDownResponse, Error> {
        let call = Call::new(Kind::Once).extra(MEMBERSHIP_EXTRA);
        let answer = self.unary(call, StepDownRequest { to }, |channel, request| async move {
            service(channel).step_down(request).await
        });
        let answer = answer.await?;
        if let Some(leader) = &answer.leader {
            self.inner.learn(&LeaderHint::from_info(leader));
        }
        Ok(answer)
    }

    /// Adds a master as a learner. Its id must never have been used before.
    ///
    /// # Errors
    /// `MEMBERSHIP`, `INVALID_ARGUMENT`, or [`crate::Class::OutcomeUnknown`] when no answer came.
    pub async fn add_master(&self, master: MasterAddress) -> Result<MembershipResponse, Error> {
        let call = Call::new(Kind::Once).extra(MEMBERSHIP_EXTRA);
        self.unary(call, AddMasterRequest { master: Some(master) }, |channel, request| async move {
            service(channel).add_master(request).await
        })
        .await
    }

    /// Makes a learner a voter.
    ///
    /// # Errors
    /// `MASTER_NOT_FOUND`, `MEMBERSHIP`, or [`crate::Class::OutcomeUnknown`] when no answer came.
    pub async fn promote_master(&self, id: u64) -> Result<MembershipResponse, Error> {
        let call = Call::new(Kind::Once).extra(MEMBERSHIP_EXTRA);
        self.unary(call, PromoteMasterRequest { id }, |channel, request| async move {
            service(channel).promote_master(request).await
        })
        .await
    }

    /// Removes a master, voter or learner. Its id is never used again.
    ///
    /// # Errors
    /// `MASTER_NOT_FOUND`, `MEMBERSHIP`, or [`crate::Class::OutcomeUnknown`] when no answer came.
    pub async fn remove_master(&self, id: u64) -> Result<MembershipResponse, Error> {
        let call = Call::new(Kind::Once).extra(MEMBERSHIP_EXTRA);
        self.unary(call, RemoveMasterRequest { id }, |channel, request| async move {
            service(channel).remove_master(request).await
        })
        .await
    }

    /// Begins the download of a snapshot from whichever master serves it.
    ///
    /// # Errors
    /// As every read.
    pub async fn save_snapshot(&self) -> Result<SnapshotDownload, Error> {
        let call = Call::new(Kind::Read).extra(MEMBERSHIP_EXTRA).stream();
        let answer = self.ask(call, SaveSnapshotRequest {}, |channel, request| async move {
            service(channel).save_snapshot(request).await
        });
        let (master, stream) = answer.await?;
        Ok(SnapshotDownload { master, stream })
    }
}

//! The way out of the sandbox, for what the session came to.

use fabrica_core::failure::Failure;
use fabrica_core::protocol::Pushed;

use super::Session;
use crate::repository::{Checkout, Git, Pusher, Uploader, Work, inspect, persistently, tell_unsigned};

impl Session {
    /// Pushes what there is. From here on no process of the agent may live: git is given the runner's token.
    pub(super) async fn publish(&self, git: &Git, checkout: &Checkout) -> Result<Option<Pushed>, Failure> {
        self.kill_all_others("the commits are not pushed").await?;
        let Some(Work { pushed, published }) = inspect(git, checkout).await? else {
            return Ok(None);
        };
        if !published {
            tell_unsigned(git, checkout, &pushed, &self.reporter).await;
            self.upload_large_files(git, checkout, &pushed).await?;
            let pusher = Pusher {
                git,
                gateway: &self.gateway,
                token: &self.environment.runner_token,
                workspace: &self.environment.workspace,
            };
            pusher.push(checkout, &pushed).await?;
            let commits = if pushed.commits == 1 {
                "1 commit"
            } else {
                &format!("{} commits", pushed.commits)
            };
            self.reporter
                .progress("push", format!("Pushed {} with {commits}", pushed.branch))
                .await;
        }
        Ok(Some(pushed))
    }

    /// What the commits keep in Git LFS goes before them: a host may refuse them otherwise.
    async fn upload_large_files(
        &self,
        git: &Git,
        checkout: &Checkout,
        pushed: &Pushed,
    ) -> Result<(), Failure> {
        let uploader = Uploader {
            git,
            gateway: &self.gateway,
            checkout,
        };
        let without = checkout.known();
        let upload = async || uploader.upload(&pushed.head, &without).await;
        if let Some(missing) = persistently(&self.gateway, upload).await? {
            self.reporter.progress("push", missing).await;
        }
        Ok(())
    }
}

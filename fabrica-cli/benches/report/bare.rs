//! The engine without Fabrica: the limit that Fabrica is held against.

use std::collections::HashMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bollard::Docker;
use bollard::models::{ContainerCreateBody, HostConfig};
use bollard::query_parameters::{
    AttachContainerOptionsBuilder, CreateContainerOptions, LogsOptionsBuilder, RemoveContainerOptionsBuilder,
    RemoveVolumeOptions, StartContainerOptions, WaitContainerOptions,
};
use fabrica_cli::assembly::DEFAULT_IMAGE;
use futures::StreamExt as _;
use tokio::net::{TcpStream, UnixListener};

use super::stage::Stage;

/// The engine's API, spoken to directly; Podman speaks it too.
pub(crate) struct BareEngine {
    docker: Docker,
    sockets: PathBuf,
    sample: PathBuf,
}

impl BareEngine {
    /// Connects, and gives the sealed agent its way to the model: a socket that leads there and nowhere else.
    pub(crate) async fn connect(socket: &str, stage: &Stage) -> Result<Self> {
        let docker = Docker::connect_with_unix(socket, 120, bollard::API_DEFAULT_VERSION)?
            .negotiate_version()
            .await?;
        let sockets = stage.path("sockets");
        std::fs::create_dir(&sockets)?;
        let path = sockets.join("model.sock");
        let listener = UnixListener::bind(&path)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666))?;
        let model = stage
            .rehearsal
            .model_base_url()
            .trim_start_matches("http://")
            .to_owned();
        tokio::spawn(async move {
            while let Ok((mut inside, _)) = listener.accept().await {
                let model = model.clone();
                tokio::spawn(async move {
                    if let Ok(mut outside) = TcpStream::connect(model).await {
                        // Either side may end it.
                        let _ = tokio::io::copy_bidirectional(&mut inside, &mut outside).await;
                    }
                });
            }
        });
        Ok(Self {
            docker,
            sockets,
            sample: stage.rehearsal.sample().path().to_owned(),
        })
    }

    /// Creates and starts a sealed container, to the first byte that it writes.
    pub(crate) async fn start_to_output(&self) -> Result<Duration> {
        let volume = volume();
        let begin = Instant::now();
        let id = self.create(&volume, "echo up").await?;
        let options = AttachContainerOptionsBuilder::default()
            .stream(true)
            .stdout(true)
            .logs(true)
            .build();
        let mut attached = self.docker.attach_container(&id, Some(options)).await?;
        self.docker
            .start_container(&id, None::<StartContainerOptions>)
            .await?;
        attached.output.next().await.context("it wrote nothing")??;
        let took = begin.elapsed();
        self.remove(&id, &volume).await?;
        Ok(took)
    }

    /// Runs the agent on a ready clone, from the container's creation to its end.
    pub(crate) async fn agent(&self) -> Result<Duration> {
        let volume = volume();
        let clone = self
            .create(
                &volume,
                "git config --global safe.directory '*' && git clone -q /sample /workspace/repository",
            )
            .await?;
        self.run(&clone).await?;
        self.docker
            .remove_container(
                &clone,
                Some(RemoveContainerOptionsBuilder::default().force(true).build()),
            )
            .await?;

        let begin = Instant::now();
        let agent = "cd /workspace/repository && claude -p --output-format stream-json --verbose \
             --dangerously-skip-permissions --setting-sources user --strict-mcp-config \
             'Add stock low, as the README says.' </dev/null";
        let id = self.create(&volume, agent).await?;
        self.run(&id).await?;
        let took = begin.elapsed();
        self.remove(&id, &volume).await?;
        Ok(took)
    }

    async fn create(&self, volume: &str, command: &str) -> Result<String> {
        let tmpfs = ["/tmp", "/fabrica/home"].map(|path| (path.to_owned(), "rw,exec,mode=1777".to_owned()));
        let host = HostConfig {
            network_mode: Some("none".into()),
            cap_drop: Some(vec!["ALL".into()]),
            security_opt: Some(vec!["no-new-privileges".into()]),
            readonly_rootfs: Some(true),
            tmpfs: Some(HashMap::from(tmpfs)),
            binds: Some(vec![
                format!("{volume}:/workspace"),
                format!("{}:/run/fabrica", self.sockets.display()),
                format!("{}:/sample:ro", self.sample.display()),
            ]),
            ..HostConfig::default()
        };
        let environment = [
            "HOME=/tmp",
            "ANTHROPIC_UNIX_SOCKET=/run/fabrica/model.sock",
            "ANTHROPIC_BASE_URL=http://model",
            "ANTHROPIC_API_KEY=rehearsal-model-key",
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC=1",
            "DISABLE_AUTOUPDATER=1",
            "GIT_AUTHOR_NAME=Bench",
            "GIT_AUTHOR_EMAIL=bench@localhost",
            "GIT_COMMITTER_NAME=Bench",
            "GIT_COMMITTER_EMAIL=bench@localhost",
        ];
        let body = ContainerCreateBody {
            image: Some(DEFAULT_IMAGE.into()),
            user: Some("1000:1000".into()),
            entrypoint: Some(vec![]),
            cmd: Some(["sh", "-c", command].map(str::to_owned).to_vec()),
            env: Some(environment.map(str::to_owned).to_vec()),
            host_config: Some(host),
            ..ContainerCreateBody::default()
        };
        Ok(self
            .docker
            .create_container(None::<CreateContainerOptions>, body)
            .await?
            .id)
    }

    async fn run(&self, id: &str) -> Result<()> {
        let mut ended = self.docker.wait_container(id, None::<WaitContainerOptions>);
        self.docker
            .start_container(id, None::<StartContainerOptions>)
            .await?;
        let outcome = ended.next().await.context("no answer")?;
        if outcome.as_ref().is_ok_and(|answer| answer.status_code == 0) {
            return Ok(());
        }
        let options = LogsOptionsBuilder::default().stdout(true).stderr(true).build();
        let log: Vec<String> = self
            .docker
            .logs(id, Some(options))
            .filter_map(|line| async { line.ok().map(|line| line.to_string()) })
            .collect()
            .await;
        ensure!(false, "the bare container failed: {outcome:?}\n{}", log.concat());
        Ok(())
    }

    async fn remove(&self, id: &str, volume: &str) -> Result<()> {
        // Podman fails to remove a container that is just ending.
        let mut ended = self.docker.wait_container(id, None::<WaitContainerOptions>);
        ended.next().await.context("no answer")??;
        self.docker
            .remove_container(
                id,
                Some(RemoveContainerOptionsBuilder::default().force(true).build()),
            )
            .await?;
        Ok(self
            .docker
            .remove_volume(volume, None::<RemoveVolumeOptions>)
            .await?)
    }
}

fn volume() -> String {
    let mut bytes = [0; 8];
    rand::fill(&mut bytes);
    format!("fabrica-bench-{:x}", u64::from_le_bytes(bytes))
}

//! The conformance suite of the port, on real engines: Docker, rootful Podman and rootless Podman.

#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "the helpers of tests fail like tests"
)]

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;

use fabrica_core::ports::ContainerRuntime;
use fabrica_core::ports::runtime::ContainerSpec;
use fabrica_core::testing::runtime_conformance as suite;
use fabrica_core::testing::runtime_conformance::Rig;
use fabrica_runtime::{Address, DockerRuntime, PodmanRuntime};
use tempfile::TempDir;

const IMAGE: &str = "fabrica-test/tiny:1";

#[derive(Debug, Clone, Copy)]
enum Engine {
    Docker,
    Podman,
    PodmanRootless,
}

impl Engine {
    fn socket(self) -> String {
        let variable = match self {
            Self::Docker => "FABRICA_TEST_DOCKER_SOCKET",
            Self::Podman => "FABRICA_TEST_PODMAN_SOCKET",
            Self::PodmanRootless => "FABRICA_TEST_PODMAN_ROOTLESS_SOCKET",
        };
        std::env::var(variable)
            .ok()
            .filter(|value| !value.is_empty())
            .unwrap_or_else(|| {
                panic!(
                    "{variable} is not set: run `make test`, or this command under scripts/with-services.sh"
                )
            })
    }

    async fn connect(self) -> Arc<dyn ContainerRuntime> {
        let socket = self.socket();
        match self {
            Self::Docker => Arc::new(
                DockerRuntime::connect(&Address::Unix(socket.into()))
                    .await
                    .unwrap(),
            ),
            Self::Podman | Self::PodmanRootless => Arc::new(PodmanRuntime::connect(socket).await.unwrap()),
        }
    }

    async fn rig(self) -> (Rig, TempDir) {
        let runtime = self.connect().await;
        assert!(
            runtime.image(IMAGE).await.unwrap().is_some(),
            "{IMAGE} is not there: run `make test`, or scripts/test-images.sh under scripts/with-services.sh"
        );
        let scratch = tempfile::tempdir().unwrap();
        std::fs::set_permissions(scratch.path(), Permissions::from_mode(0o777)).unwrap();
        (Rig::new(runtime, IMAGE, scratch.path()), scratch)
    }
}

/// The port tells nothing of volumes, so the engine is asked itself: Docker's questions serve on Podman too.
async fn check_volumes(rig: &Rig, engine: Engine) {
    let docker = bollard::Docker::connect_with_unix(&engine.socket(), 30, bollard::API_DEFAULT_VERSION);
    let docker = docker.unwrap().negotiate_version().await.unwrap();
    let is_there = async |spec: &ContainerSpec| docker.inspect_volume(spec.name.as_str()).await.is_ok();
    let spec = rig.idle();
    rig.runtime.ensure(&spec).await.unwrap();
    assert!(is_there(&spec).await);
    rig.runtime.remove(&spec.name).await.unwrap();
    assert!(!is_there(&spec).await, "the volume goes with its container");
    let mut refused = rig.idle();
    refused.command = vec!["/no/such/program".to_owned()];
    rig.runtime.ensure(&refused).await.unwrap_err();
    assert!(!is_there(&refused).await, "nothing is left of what was refused");
}

/// A file system with a shell: what the test image is made of.
fn file_system() -> tempfile::NamedTempFile {
    let busybox = ["/bin/busybox", "/usr/bin/busybox"]
        .into_iter()
        .find(|path| std::path::Path::new(path).exists());
    let busybox = std::fs::read(busybox.expect("busybox-static is installed: run `make test`")).unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    let mut builder = tar::Builder::new(file.reopen().unwrap());
    let mut header = tar::Header::new_gnu();
    header.set_size(busybox.len() as u64);
    header.set_mode(0o755);
    builder.append_data(&mut header, "bin/sh", &busybox[..]).unwrap();
    builder.finish().unwrap();
    file
}

macro_rules! cases {
    ($($module:ident { $($case:ident),* $(,)? })*) => {
        cases!(@engine docker Engine::Docker; $($module { $($case),* })*);
        cases!(@engine podman Engine::Podman; $($module { $($case),* })*);
        cases!(@engine podman_rootless Engine::PodmanRootless; $($module { $($case),* })*);
    };
    (@engine $engine:ident $value:expr; $($module:ident { $($case:ident),* })*) => {
        mod $engine {
            use super::*;
            $(mod $module {
                use super::*;
                $(#[tokio::test(flavor = "multi_thread")]
                async fn $case() {
                    let (rig, _scratch) = $value.rig().await;
                    rig.run(suite::$module::$case).await;
                })*
            })*

            #[tokio::test(flavor = "multi_thread")]
            async fn no_volume_is_left() {
                let (rig, _scratch) = $value.rig().await;
                rig.run(async |rig: &Rig| check_volumes(rig, $value).await).await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn an_archive_is_imported() {
                let (rig, _scratch) = $value.rig().await;
                let archive = file_system();
                rig.run(async |rig: &Rig| suite::images::an_archive_is_imported(rig, archive.path()).await).await;
            }
        }
    };
}

cases! {
    lifecycle {
        an_exit_code_is_told,
        what_is_not_there_is_gone,
        a_second_ensure_adopts,
        an_ended_container_is_adopted_and_not_started_again,
        another_container_of_the_same_name_is_refused_and_untouched,
        a_missing_image_is_told,
        a_program_that_is_not_there_is_refused_and_nothing_is_left,
        eight_at_once_all_start,
        the_same_at_once_is_started_once,
        the_program_gets_what_the_spec_says,
        values_of_the_environment_are_not_in_labels,
    }
    hardening {
        the_process_has_no_privileges,
        the_root_is_read_only,
        there_is_no_network,
        it_sees_only_its_own_processes,
        nothing_of_the_host_is_there,
        root_is_refused,
    }
    files {
        a_memory_file_system_is_writable_executable_and_limited,
        the_workspace_belongs_to_the_user,
        the_workspace_goes_with_its_container,
        workspaces_are_apart,
        a_directory_of_the_host_is_mounted_as_asked,
        a_socket_of_the_host_can_be_connected_to,
    }
    limits {
        memory_is_limited_or_refused,
        processes_are_limited_or_refused,
        processors_are_limited_or_refused,
        unenforced_limits_can_be_accepted,
        capabilities_are_told,
    }
    stopping {
        a_program_may_end_by_itself,
        a_program_that_ignores_term_is_killed_after_the_grace,
        stopping_is_idempotent,
        removing_is_prompt_and_idempotent,
        two_may_remove_at_once,
    }
    logs {
        the_last_lines_of_both_streams_are_told,
        the_log_of_a_running_container_is_told,
        odd_lines_are_told,
        what_is_gone_has_no_log,
    }
    watching {
        only_ours_are_listed,
        changes_are_told,
        what_is_true_is_told_again,
        changes_of_others_are_not_told,
    }
    images {
        an_image_is_described,
        an_image_that_cannot_be_pulled_is_missing,
        a_context_is_built,
        a_failed_build_tells_its_last_lines,
        what_cannot_be_read_is_a_failure,
    }
}

//! A container cannot join the namespaces of a container outside its preview, nor its network or volumes.

use drivers::problem::ProblemKind;
use plan::application::RuntimeKind;
use plan::step::Action;
use serde_json::{Value, json};

use crate::test_preview::{
    RUN_UNTIL_STOPPED, TestPreview, container_unit, create_action, engine, shell_unit, should_skip, start_action,
};

const VOLUME: &str = "data";

async fn victim() -> (TestPreview, String) {
    let victim = TestPreview::open("joined", vec![shell_unit("api", RUN_UNTIL_STOPPED)]).await;
    let container = victim.create("api").await;
    victim.perform_ok(start_action("api")).await;
    victim.perform_ok(Action::CreateVolume { runtime: RuntimeKind::DOCKER, volume: VOLUME.to_owned() }).await;
    (victim, container)
}

fn joining_unit(host_config: &Value) -> plan::application::Unit {
    container_unit("web", json!({ "Cmd": ["sleep", "600"], "HostConfig": host_config }))
}

#[tokio::test]
async fn objects_of_other_previews_are_refused() {
    if should_skip().await {
        return;
    }
    let (victim, container) = victim().await;
    let name = format!("{}-api", victim.name.object_prefix());
    let mut attacker = TestPreview::open("joining", Vec::new()).await;
    let volume = format!("{}-{VOLUME}", victim.name.object_prefix());
    let attacks = [
        json!({ "NetworkMode": format!("container:{name}") }),
        json!({ "NetworkMode": format!("container:{container}") }),
        json!({ "NetworkMode": format!("container:{}", &container[..12]) }),
        json!({ "PidMode": format!("container:{name}") }),
        json!({ "IpcMode": format!("container:{name}") }),
        json!({ "Cgroup": format!("container:{name}") }),
        json!({ "VolumesFrom": [format!("{name}:ro")] }),
        json!({ "VolumesFrom": [name] }),
        json!({ "Links": [format!("{name}:api")] }),
        json!({ "NetworkMode": victim.name.object_prefix() }),
        json!({ "Binds": [format!("{volume}:/data")] }),
        json!({ "Mounts": [{ "Type": "volume", "Source": volume, "Target": "/data" }] }),
    ];
    for host_config in attacks {
        attacker.units.insert("web".to_owned(), joining_unit(&host_config));
        let problem = attacker.perform(create_action("web")).await.expect_err(&host_config.to_string());
        assert_eq!(problem.kind, ProblemKind::Refused, "{host_config}: {problem:?}");
        assert!(problem.message.contains("does not belong to this preview"), "{host_config}: {}", problem.message);
    }
    attacker.close().await;
    victim.close().await;
}

#[tokio::test]
async fn own_containers_are_joined_by_id() {
    if should_skip().await {
        return;
    }
    let mut preview = TestPreview::open("own", vec![shell_unit("api", RUN_UNTIL_STOPPED)]).await;
    let container = preview.create("api").await;
    preview.perform_ok(start_action("api")).await;
    let name = format!("{}-api", preview.name.object_prefix());
    let mode = format!("container:{name}");
    let host_config = json!({ "NetworkMode": mode, "PidMode": mode, "VolumesFrom": [format!("{name}:ro")] });
    preview.units.insert("web".to_owned(), joining_unit(&host_config));
    let handle = preview.create("web").await;
    preview.perform_ok(start_action("web")).await;
    let found = engine().inspect_container(&handle, None).await.expect("inspects");
    let host_config = found.host_config.expect("a host configuration");
    assert_eq!(host_config.network_mode, Some(format!("container:{container}")));
    assert_eq!(host_config.volumes_from, Some(vec![format!("{container}:ro")]));
    preview.close().await;
}

"""The Kubernetes manifests of ``deploy/``, without a cluster: the schemas of Kubernetes (as
kubernetes-validate ships them), what operators rely on, and the containers' commands."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import kubernetes_validate
import pytest
import yaml
from lumos_commands import options_of

from lumos_core import __version__
from lumos_core.deployment import folders
from lumos_core.deployment.supervision import STOP_SECONDS

ROOT = Path(__file__).parents[2]
MANIFESTS = ROOT / "deploy" / "kubernetes"
FILES = sorted(path for path in MANIFESTS.rglob("*.yaml") if path.name != "kustomization.yaml")
KUSTOMIZATIONS = sorted(MANIFESTS.rglob("kustomization.yaml"))
SCHEMAS = "1.37"
NAMES = ["north", "south"]
WRITTEN, READ = ("state", "run_dir"), ("folder", "catalog", "bundle", "data")
HOST = "lumos-server.lumos.svc"  # <Service>.<namespace>.svc, as deploy/README.md has it

Manifest = dict[str, Any]


def manifests() -> Iterator[Manifest]:
    for path in FILES:
        yield from yaml.safe_load_all(path.read_text(encoding="utf-8"))


def the(kind: str, name: str) -> Manifest:
    [found] = [m for m in manifests() if (m["kind"], m["metadata"]["name"]) == (kind, name)]
    return found


def pod(manifest: Manifest) -> Manifest:
    spec: Manifest = manifest["spec"]
    return spec["template"]["spec"] if "template" in spec else spec


SERVER, NODE = the("Job", "lumos-server"), the("StatefulSet", "lumos-node")
PODS = {"server": pod(SERVER), "node": pod(NODE), "results": pod(the("Pod", "lumos-results"))}
EACH_POD = pytest.mark.parametrize("spec", PODS.values(), ids=PODS)
BOTH = pytest.mark.parametrize("spec", [PODS["server"], PODS["node"]], ids=["server", "node"])


def only(containers: list[Manifest]) -> Manifest:
    [container] = containers
    return container


# ---------------------------------------------------------------- Kubernetes' own opinion
def test_kubernetes_accepts_the_manifests() -> None:
    for manifest in manifests():
        assert kubernetes_validate.validate(manifest, SCHEMAS, strict=True) == SCHEMAS
    wrong = {**SERVER, "spec": {**SERVER["spec"], "backofLimit": 3}}
    with pytest.raises(kubernetes_validate.ValidationError, match="backofLimit"):
        kubernetes_validate.validate(wrong, SCHEMAS, strict=True)


@pytest.mark.parametrize("path", KUSTOMIZATIONS, ids=lambda path: path.parent.name)
def test_a_kustomization_has_its_files_and_the_image_of_this_version(path: Path) -> None:
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    named = {path.parent / name for name in content["resources"]}
    assert named == set(path.parent.glob("*.yaml")) - {path}
    image = only(content["images"])
    assert image["newTag"] == __version__
    used = {
        container["image"]
        for file in named
        for manifest in yaml.safe_load_all(file.read_text(encoding="utf-8"))
        if "template" in manifest.get("spec", {})
        for container in (*pod(manifest)["initContainers"], *pod(manifest)["containers"])
    }
    assert used == {f"{image['name']}:{__version__}"}


@pytest.mark.parametrize("path", KUSTOMIZATIONS, ids=lambda path: path.parent.name)
def test_kubectl_builds_it(path: Path) -> None:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed: it has not built the kustomizations")
    command = ["kubectl", "kustomize", str(path.parent)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    built = list(yaml.safe_load_all(done.stdout))
    for manifest in built:
        kubernetes_validate.validate(manifest, SCHEMAS, strict=True)
    own = {m["metadata"]["name"] for m in manifests() if path.parent.name in m["metadata"]["name"]}
    assert own <= {manifest["metadata"]["name"] for manifest in built}
    namespaces = {m["metadata"].get("namespace") for m in built if m["kind"] != "Namespace"}
    assert namespaces == ({"lumos"} if path.parent.name == "server" else {None})


# ---------------------------------------------------------------- rights and limits
@EACH_POD
def test_no_pod_has_more_rights_than_it_needs(spec: Manifest) -> None:
    """The profile 'restricted' of the pod security standards, and more."""
    assert spec["securityContext"]["runAsNonRoot"]
    ids = {spec["securityContext"][key] for key in ("runAsUser", "runAsGroup", "fsGroup")}
    assert ids == {49999}
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["automountServiceAccountToken"] is False
    assert not spec.keys() & {"hostNetwork", "hostPID", "hostIPC", "serviceAccountName"}
    assert not any("hostPath" in volume for volume in spec["volumes"])
    for container in (*spec.get("initContainers", ()), *spec["containers"]):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["resources"]["limits"]["memory"]
        assert container["resources"]["requests"].keys() >= {"cpu", "memory"}


@BOTH
def test_there_is_time_for_an_orderly_end(spec: Manifest) -> None:
    assert spec["terminationGracePeriodSeconds"] > 2 * STOP_SECONDS


def test_a_completed_run_is_not_started_again_and_never_runs_twice() -> None:
    assert PODS["server"]["restartPolicy"] == "OnFailure"
    assert SERVER["spec"]["podReplacementPolicy"] == "Failed"
    assert NODE["spec"]["replicas"] == 1
    claims = [the("PersistentVolumeClaim", "lumos-server"), *NODE["spec"]["volumeClaimTemplates"]]
    assert [claim["spec"]["accessModes"] for claim in claims] == [["ReadWriteOncePod"]] * 2


# ---------------------------------------------------------------- network
def selected(policy: Manifest) -> Manifest:
    labels: Manifest = policy["spec"]["podSelector"]["matchLabels"]
    return labels


def test_nothing_reaches_a_node_and_a_node_reaches_the_server_alone() -> None:
    policy = the("NetworkPolicy", "lumos-node")
    labels = NODE["spec"]["template"]["metadata"]["labels"]
    assert selected(policy).items() <= labels.items()
    assert set(policy["spec"]["policyTypes"]) == {"Ingress", "Egress"}
    assert policy["spec"]["ingress"] == []
    to_server, to_names = policy["spec"]["egress"]
    [target] = to_server["to"]
    found = SERVER["spec"]["template"]["metadata"]["labels"]
    assert target["podSelector"]["matchLabels"].items() <= found.items()
    assert to_server["ports"] == [{"protocol": "TCP", "port": 9092}]
    assert {port["port"] for port in to_names["ports"]} == {53}


def test_nodes_alone_reach_the_server_and_its_fleet_port_alone() -> None:
    policy = the("NetworkPolicy", "lumos-server")
    assert selected(policy).items() <= SERVER["spec"]["template"]["metadata"]["labels"].items()
    assert set(policy["spec"]["policyTypes"]) == {"Ingress", "Egress"}
    assert policy["spec"]["egress"] == []
    [rule] = policy["spec"]["ingress"]
    [source] = rule["from"]
    labels = NODE["spec"]["template"]["metadata"]["labels"]
    assert source["podSelector"]["matchLabels"].items() <= labels.items()
    assert rule["ports"] == [{"protocol": "TCP", "port": 9092}]


def test_the_service_leads_to_the_fleet_port() -> None:
    service = the("Service", "lumos-server")["spec"]
    labels = SERVER["spec"]["template"]["metadata"]["labels"]
    assert service["selector"].items() <= labels.items()
    [port], [opened] = service["ports"], only(PODS["server"]["containers"])["ports"]
    assert (port["port"], port["targetPort"]) == (9092, opened["name"])
    assert opened["containerPort"] == 9092


# ---------------------------------------------------------------- commands
def command(spec: Manifest) -> list[str]:
    container = only(spec["containers"])
    program, *words = [*container["command"], *container["args"]]
    assert program == "lumos"
    return words


@BOTH
def test_the_program_understands_the_command(spec: Manifest) -> None:
    assert options_of(command(spec))
    with pytest.raises(click.ClickException):
        options_of([*command(spec), "--no-such-option"])


@BOTH
def test_commands_and_probes_name_what_is_mounted(spec: Manifest) -> None:
    container = only(spec["containers"])
    mounts = {m["mountPath"]: not m.get("readOnly", False) for m in container["volumeMounts"]}
    chosen = options_of(command(spec))
    paths = {k: Path(str(chosen[k])) for k in (*WRITTEN, *READ) if k in chosen}
    assert {"state", "data" if spec is PODS["node"] else "catalog"} <= paths.keys()
    probes = [value for key, value in container.items() if key.endswith("Probe")]
    for key, path in paths.items():
        [place] = [mount for mount in mounts if path.is_relative_to(mount)]
        assert mounts[place] == (key in WRITTEN), path
        assert path != Path("/state")  # its mode is Kubernetes' affair, see fsGroup
    volumes = {volume["name"] for volume in spec["volumes"]} | {
        claim["metadata"]["name"]
        for claim in NODE["spec"]["volumeClaimTemplates"]
        if spec is PODS["node"]
    }
    assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
    for probe in probes:
        _, script, kind, subject = probe["exec"]["command"]
        expected = paths["folder"] / "ca.crt" if kind == "server" else paths["state"]
        assert (Path(script).name, Path(subject)) == ("healthcheck.py", expected)


def test_probes_kill_a_server_that_hangs_and_never_a_node_that_waits() -> None:
    server, node = (only(PODS[name]["containers"]) for name in ("server", "node"))
    assert "livenessProbe" not in node
    assert "readinessProbe" in node
    patience = (
        server["livenessProbe"]["periodSeconds"] * server["livenessProbe"]["failureThreshold"]
    )
    assert patience > 120  # the supervisor needs up to two minutes to start a SuperLink again
    start = server["startupProbe"]["periodSeconds"] * server["startupProbe"]["failureThreshold"]
    assert start > 120


def test_the_image_has_the_script_of_the_probes() -> None:
    dockerfile = ROOT / "docker" / "Dockerfile"
    if not dockerfile.is_file():
        pytest.skip("there is no docker/Dockerfile: the image of the manifests is described there")
    [line] = [
        text for text in dockerfile.read_text().splitlines() if "docker/healthcheck.py" in text
    ]
    for spec in (PODS["server"], PODS["node"]):
        script = only(spec["containers"])["readinessProbe"]["exec"]["command"][1]
        assert line.split()[-1].rstrip("/") == str(Path(script).parent)


# ---------------------------------------------------------------- secrets
def as_kubernetes_mounts(source: Path, target: Path) -> None:
    """The files of a folder as ``kubectl create secret --from-file`` and a volume make them: links
    to files that their group may read."""
    (target / "..data").mkdir(parents=True)
    for path in source.iterdir():
        if path.is_file():
            (target / "..data" / path.name).write_bytes(path.read_bytes())
            (target / "..data" / path.name).chmod(0o440)
            (target / path.name).symlink_to(f"..data/{path.name}")


def initialised(spec: Manifest, secrets: dict[str, Path], place: Path) -> dict[str, Path]:
    """Run the first container's script; returns its folders by the path they are mounted at."""
    container = only(spec["initContainers"])
    names = {v["name"]: v["secret"]["secretName"] for v in spec["volumes"] if "secret" in v}
    script, found = only(container["args"]), {}
    for mount in container["volumeMounts"]:
        folder = place / mount["name"]
        if mount["name"] in names:
            as_kubernetes_mounts(secrets[names[mount["name"]]], folder)
        else:
            folder.mkdir(parents=True)
        found[mount["mountPath"]] = folder
        script = script.replace(mount["mountPath"], str(folder))
    subprocess.run([*container["command"], script], check=True, timeout=60)
    return found


def test_the_server_finds_the_kit_of_lumos_deploy_init(tmp_path: Path) -> None:
    folders.create(tmp_path / "deployment", [HOST], NAMES, 9092, 30)
    server = tmp_path / "deployment" / "server"
    secrets = {"lumos-server": server, "lumos-server-nodes": server / "nodes"}
    found = initialised(PODS["server"], secrets, tmp_path / "pod")
    chosen = options_of(command(PODS["server"]))
    kit = folders.ServerKit.read(found[str(chosen["folder"])])
    assert kit.manifest.nodes == tuple(NAMES)
    assert kit.secret.read_bytes() == (server / "superexec.secret").read_bytes()


def test_a_node_finds_its_bundle_and_the_server(tmp_path: Path) -> None:
    folders.create(tmp_path / "deployment", [HOST], NAMES, 9092, 30)
    own = tmp_path / "deployment" / "nodes" / "south"
    found = initialised(PODS["node"], {"lumos-node": own}, tmp_path / "pod")
    chosen = options_of(command(PODS["node"]))
    bundle = folders.NodeBundle.read(found[str(chosen["bundle"])], {"data": str(chosen["data"])})
    folders.credentials.check_node_key(bundle.key)
    assert bundle.config.name == "south"
    service, namespace = the("Service", "lumos-server"), the("Namespace", "lumos")
    host = f"{service['metadata']['name']}.{namespace['metadata']['name']}.svc"
    assert bundle.superlink == f"{host}:{service['spec']['ports'][0]['port']}"

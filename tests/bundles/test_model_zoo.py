"""What MONAI's model zoo asks of a bundle, of every bundle here, by MONAI's own commands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import bundle_runs
import pytest
import torch
from monai.bundle import ConfigParser, ConfigWorkflow, scripts

from monai_crossd import load_checkpoint

BUNDLES = sorted(path for path in (Path(__file__).parents[2] / "bundles").iterdir() if (path / "configs").is_dir())
LAYOUTS = {
    "hippocampus_mr_segmentation": ("imagesTr/case_{}.nii.gz", "labelsTr/case_{}.nii.gz", 2),
    "sts_ct_tumor_segmentation": ("case_{}_ct.nii.gz", "case_{}_mask.nii.gz", 1),
}


@pytest.fixture(params=BUNDLES, ids=lambda bundle: bundle.name)
def bundle(request) -> Path:
    return request.param


def files(bundle: Path) -> dict[str, str]:
    configs = bundle / "configs"
    return {"meta_file": str(configs / "metadata.json"), "config_file": str(configs / "inference.json")}


def trained_network(bundle: Path) -> torch.nn.Module:
    parser = ConfigParser(
        {"imports": ["$import monai_crossd"], **ConfigParser.load_config_file(files(bundle)["config_file"])}
    )
    net = parser.get_parsed_content("network_def").eval()
    load_checkpoint(net, bundle / "models" / "model.pt")
    return net


@pytest.mark.parametrize("kind", ["train", "inference"])
def test_properties(bundle, kind, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    bundle_runs.write_dataset(tmp_path / "data", *LAYOUTS[bundle.name])
    options: dict[str, Any] = {"dataset_dir": str(tmp_path / "data"), "output_dir": str(tmp_path / "out")}
    workflow = ConfigWorkflow(
        config_file=str(bundle / "configs" / f"{kind}.json"),
        meta_file=files(bundle)["meta_file"],
        workflow_type=kind,
        bundle_root=str(bundle),
        **options | ({"num_workers": 0} if kind == "train" else {}),
    )
    workflow.initialize()
    assert workflow.check_properties() == []


@pytest.mark.filterwarnings("ignore::UserWarning")  # MONAI warns that it has no hash to check the schema with
def test_metadata_is_valid(bundle):
    pytest.importorskip("jsonschema")
    scripts.verify_metadata(
        meta_file=files(bundle)["meta_file"], filepath=str(Path(__file__).parent / "metadata_schema.json")
    )


def test_network_takes_what_the_metadata_says(bundle):
    scripts.verify_net_in_out(net_id="network_def", device="cpu", n=2, bundle_root=str(bundle), **files(bundle))


def test_torchscript_export_agrees(bundle, tmp_path):
    file, weights = str(tmp_path / "model.ts"), str(bundle / "models" / "model.pt")
    scripts.ckpt_export(
        net_id="network_def", filepath=file, ckpt_file=weights, bundle_root=str(bundle), **files(bundle)
    )
    x = torch.randn(1, 1, 16, 32, 16)
    torch.testing.assert_close(torch.jit.load(file)(x), trained_network(bundle)(x), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_onnx_export_agrees(bundle, tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    file, weights = str(tmp_path / "model.onnx"), str(bundle / "models" / "model.pt")
    arguments = {"ckpt_file": weights, "bundle_root": str(bundle), "input_shape": [1, 1, 16, 32, 16]}
    scripts.onnx_export(net_id="network_def", filepath=file, **arguments, **files(bundle))
    x = torch.randn(1, 1, 16, 32, 16)
    session = runtime.InferenceSession(file)
    (y,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    torch.testing.assert_close(torch.from_numpy(y), trained_network(bundle)(x), rtol=1e-3, atol=1e-3)


def test_rules_of_the_zoo(bundle):
    assert (bundle / "LICENSE").is_file() and (bundle / "docs" / "README.md").is_file()
    assert (bundle / "docs" / "data_license.txt").is_file()
    metadata = json.loads(Path(files(bundle)["meta_file"]).read_text())
    assert metadata["version"] in metadata["changelog"]
    assert (bundle / "models" / "model.pt").stat().st_size <= 25 * 2**20
    for file in (bundle / "configs").glob("*.json"):
        assert "/home/" not in file.read_text() and "/root/" not in file.read_text()

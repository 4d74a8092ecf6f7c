"""Keys in hardware modules under a running service: registered, signed with, and served on while a module is out."""

from __future__ import annotations

import base64
from pathlib import Path

from signer._native import sm2
from tests.hsm_world import INDEX, make_devices, until
from tests.running import Installation, Service


def test_a_key_in_devices_signs_and_survives_the_loss_of_one(tmp_path: Path) -> None:
    installation = Installation(tmp_path / "var").made()
    key = sm2.PrivateKey.generate()
    devices = make_devices(tmp_path, 2, key)
    tables = "\n".join(
        f'[[hsm.devices]]\nname = "d{number}"\nlibrary = "{device.library}"' for number, device in enumerate(devices)
    )
    with installation.config.open("a") as file:
        file.write(f'\n[hsm]\npassword_file = "{tmp_path / "password"}"\nbackoff_max_ms = 200\n\n{tables}\n')

    wrong = installation.run("key", "create", "seal", "--caller", "*", "--device-index", "9")
    assert wrong.status == 1
    assert wrong.stderr.count("\n") == 1, wrong.stderr
    made = installation.run("key", "create", "seal", "--caller", "*", "--device-index", str(INDEX), "--json")
    assert made.status == 0, made.stderr
    assert made.json["public_key"] == key.public_key.to_bytes().hex()
    assert (made.json["backend"], made.json["device_index"]) == ("sdf", INDEX)
    assert not (installation.directory / "keys" / "seal.pem").exists()

    def sign(service: Service, name: str) -> int:
        digest = bytes(range(32))
        answer = service.call("POST", "/v1/sign", {"key": name, "digest": base64.b64encode(digest).decode()})
        if answer.status == 200 and name == "seal":
            signature = sm2.signature_from_der(base64.b64decode(answer.json["signature"]))
            key.public_key.verify_digest(digest, signature)
        return answer.status

    with Service(installation) as service:
        assert sign(service, "seal") == 200
        assert service.get("/readyz").json["checks"]["hsm"] == {"ok": True, "detail": "2 of 2 serve"}
        devices[0].kill()
        assert [sign(service, "seal") for _ in range(20)] == [200] * 20
        until(lambda: service.get("/readyz").json["checks"]["hsm"]["detail"] == "1 of 2 serve")
        devices[1].kill()
        until(lambda: service.get("/readyz").status == 503)
        assert sign(service, "demo") == 200, "a software key needs no device"
        devices[0].repair()
        until(lambda: service.get("/readyz").status == 200)
        assert sign(service, "seal") == 200
        assert installation.run("key", "freeze", "seal").status == 0
        assert sign(service, "seal") == 422

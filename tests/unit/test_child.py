from __future__ import annotations

from service.child import bare_environment


def test_a_bare_environment_has_what_finds_programs_and_libraries_and_no_secret() -> None:
    told = bare_environment({"PATH": "/bin", "HOME": "/home/sonotag", "SONOTAG_API_KEYS_FILE": "keys", "AWS_SECRET_KEY": "s"})
    assert told == {"PATH": "/bin", "HOME": "/home/sonotag", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}

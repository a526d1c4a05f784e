"""What schemathesis checks of every answer of the read API."""

import schemathesis


@schemathesis.check
def no_server_error(ctx, response, case):
    """Nothing that can be asked for is the server's fault.

    That a position is not contained yet is no fault: it is said with 503, so that the client comes again.
    """
    if response.status_code < 500:
        return
    not_yet = response.status_code == 503 and response.json()["title"] == "Not contained yet"
    assert not_yet and "min_lsn" in (case.query or {}), f"{response.status_code}: {response.text}"

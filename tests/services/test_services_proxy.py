"""What the proxy does to connections, seen from both ends."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from services.places import LOOPBACK
from services.proxy import Proxy

SOON = 10.0
SILENCE = 0.15  # long enough for an answer that would come
LATE = 0.2


class Echo:
    """A server that notes what it is told and says it back."""

    def __init__(self) -> None:
        self.heard = b""
        self.ended = 0
        self.socket = socket.create_server((LOOPBACK, 0))
        self.port = self.socket.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Listen no longer; the thread that waits in `accept` ends."""
        self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self.socket.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client:
            try:
                while data := client.recv(1 << 16):
                    self.heard += data
                    client.sendall(data)
            except OSError:
                pass
        self.ended += 1


@pytest.fixture
def echo() -> Iterator[Echo]:
    server = Echo()
    yield server
    if server.socket.fileno() != -1:
        server.close()


@pytest.fixture
def proxy(echo: Echo) -> Iterator[Proxy]:
    with Proxy(echo.port) as made:
        yield made


def connected(proxy: Proxy) -> socket.socket:
    return socket.create_connection((LOOPBACK, proxy.port), timeout=SOON)


def says(client: socket.socket, text: bytes) -> bytes:
    """Send it, and read as much back."""
    client.sendall(text)
    back = b""
    while len(back) < len(text):
        back += client.recv(1 << 16) or pytest.fail(f"the connection ended after {back!r}")
    return back


def silent(client: socket.socket) -> bool:
    client.settimeout(SILENCE)
    try:
        client.recv(1)
    except TimeoutError:
        return True
    finally:
        client.settimeout(SOON)
    return False


def soon(condition: Callable[[], object]) -> None:
    until = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.005)


def test_it_forwards_both_ways_and_ends_of_connections(proxy: Proxy, echo: Echo) -> None:
    with connected(proxy) as client:
        assert says(client, b"hello") == b"hello"
        large = bytes(range(256)) * 20_000
        threading.Thread(target=client.sendall, args=(large,), daemon=True).start()
        assert says(client, b"") == b""
        back = b""
        while len(back) < len(large):
            back += client.recv(1 << 20)
        assert back == large
        client.shutdown(socket.SHUT_WR)
        assert client.recv(1) == b""  # the server has seen the end and ended its side
    soon(lambda: echo.ended == 1 and not proxy.connections)


def test_a_cut_resets_what_is_open_and_refuses_what_is_new(proxy: Proxy, echo: Echo) -> None:
    with connected(proxy) as client:
        says(client, b"hello")
        proxy.cut()
        with pytest.raises(ConnectionResetError):
            client.recv(1)
        soon(lambda: echo.ended == 1)
        with pytest.raises(ConnectionRefusedError):
            connected(proxy)
    proxy.heal()
    with connected(proxy) as client:
        assert says(client, b"again") == b"again"


def test_half_open_both_ways_is_silence(proxy: Proxy, echo: Echo) -> None:
    with connected(proxy) as before:
        says(before, b"1")
        proxy.swallow()
        with connected(proxy) as after:
            for client in (before, after):
                client.sendall(b"2")
                assert silent(client)
            assert echo.heard == b"1" and echo.ended == 0
            proxy.heal()
            for client in (before, after):  # bytes are gone: what comes later would be read as something else
                with pytest.raises(ConnectionResetError):
                    client.recv(1)
    with connected(proxy) as client:
        assert says(client, b"3") == b"3"


def test_an_answer_is_lost_while_the_request_took_effect(proxy: Proxy, echo: Echo) -> None:
    proxy.swallow(up=False)
    with connected(proxy) as client:
        client.sendall(b"effect")
        soon(lambda: echo.heard == b"effect")
        assert silent(client)


def test_a_request_is_lost_while_the_way_back_is_open(proxy: Proxy, echo: Echo) -> None:
    with connected(proxy) as client:
        says(client, b"1")
        proxy.swallow(down=False)
        client.sendall(b"2")
        assert silent(client) and echo.heard == b"1"


def test_a_half_open_connection_that_lost_nothing_goes_on(proxy: Proxy) -> None:
    with connected(proxy) as client:
        says(client, b"1")
        proxy.swallow()
        proxy.heal()
        assert says(client, b"2") == b"2"


def test_a_forgotten_connection_is_silent_and_new_ones_work(proxy: Proxy, echo: Echo) -> None:
    with connected(proxy) as old:
        says(old, b"1")
        proxy.forget()
        old.sendall(b"2")
        with connected(proxy) as new:
            assert says(new, b"3") == b"3"
        assert silent(old) and echo.heard == b"13"


def test_delay_makes_everything_later_and_keeps_the_order(proxy: Proxy) -> None:
    with connected(proxy) as client:
        proxy.delay(LATE)
        began = time.monotonic()
        for each in range(10):
            client.sendall(str(each).encode())
        assert says(client, b"") == b"" and client.recv(1) == b"0"
        assert time.monotonic() - began >= 2 * LATE
        back = b""
        while len(back) < 9:
            back += client.recv(9)
        assert back == b"123456789"
        proxy.heal()
        assert says(client, b"fast") == b"fast"


def test_reset_ends_what_is_open_and_takes_what_is_new(proxy: Proxy) -> None:
    with connected(proxy) as client:
        says(client, b"1")
        proxy.reset()
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    with connected(proxy) as client:
        assert says(client, b"2") == b"2"


def test_a_server_that_is_gone_ends_the_connection(proxy: Proxy, echo: Echo) -> None:
    echo.close()
    with pytest.raises(ConnectionResetError), connected(proxy) as client:
        client.recv(1)


def test_a_taken_port_is_said(proxy: Proxy) -> None:
    with pytest.raises(OSError, match="in use"):
        Proxy(1, port=proxy.port)

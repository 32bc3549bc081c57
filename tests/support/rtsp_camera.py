"""A camera: a picture and sound over RTSP, by GStreamer's server. Debian's own Python runs it, for which that is packaged.

Usage: python3 rtsp_camera.py SOUND PORT

SOUND is 16-bit mono at 16 kHz: a WAV file is played once from its beginning for each who asks, raw samples (`.raw`) again and
again for all; `-` is a camera without sound. PORT 0 takes a free one. It prints the port.
"""

import sys

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer  # noqa: E402

PICTURE = (
    "videotestsrc is-live=true ! video/x-raw,format=I420,width=160,height=120,framerate=2/1 "
    "! jpegenc ! rtpjpegpay name=pay0 pt=26"
)
ENDLESS = "multifilesrc location={} loop=true ! rawaudioparse sample-rate=16000 num-channels=1 pcm-format=s16le"
ONCE = "filesrc location={} ! wavparse"
SPOKEN = "audioconvert ! audioresample ! audio/x-raw,rate=8000 ! alawenc ! rtppcmapay pt=8"


def main() -> None:
    """Serve until the process is ended."""
    sound, port = sys.argv[1:]
    Gst.init(None)
    is_endless = sound.endswith(".raw")
    server = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service(port)
    factory = GstRtspServer.RTSPMediaFactory()
    if sound == "-":
        factory.set_launch(f"( {PICTURE} )")
    elif is_endless:
        factory.set_launch(f"( {PICTURE} {ENDLESS.format(sound)} ! {SPOKEN} name=pay1 )")
    else:
        factory.set_launch(f"( {ONCE.format(sound)} ! {SPOKEN} name=pay0 )")
    factory.set_shared(is_endless)
    server.get_mount_points().add_factory("/live", factory)
    server.attach(None)
    print(server.get_bound_port(), flush=True)
    GLib.MainLoop().run()


if __name__ == "__main__":
    main()

// A scanner simulator in C#: tiles of a picture (PPM, P6) in snake order through the shared library; prints events and
// the result.
//
//   cc -std=c99 -shared -fPIC -fvisibility=hidden ../glassrt*.c -o libglassrt.so -lpthread    (Windows: README.md)
//   mcs Scanner.cs && mono Scanner.exe slide.ppm [--address 127.0.0.1:8080] [--token T] [--bundle glas-glands]
//                          [--name scan] [--mpp 0.5] [--tile 1024] [--rate 14.3]
using System;
using System.Collections.Generic;
using System.Diagnostics;
using System.Globalization;
using System.IO;
using System.Runtime.InteropServices;
using System.Text;
using System.Threading;

static class GlassRT {
    public const int Abi = 1, Ok = 0, None = 1, Busy = 2, Refused = 3, Ended = 4, Rgb = 0;

    [StructLayout(LayoutKind.Sequential)]
    public struct Event {
        public long Number;
        [MarshalAs(UnmanagedType.ByValArray, SizeConst = 24)]
        public byte[] Kind;
        public IntPtr Data;
        public UIntPtr Length;
    }

    const string Library = "glassrt";
    const CallingConvention C = CallingConvention.Cdecl;

    [DllImport(Library, CallingConvention = C)]
    public static extern int glassrt_abi_version();
    [DllImport(Library, CallingConvention = C)]
    public static extern int glassrt_connect(byte[] address, byte[] token, int timeoutMs, out IntPtr client);
    [DllImport(Library, CallingConvention = C)]
    public static extern void glassrt_close(IntPtr client);
    [DllImport(Library, CallingConvention = C)]
    public static extern UIntPtr glassrt_error(IntPtr client, byte[] buffer, UIntPtr size);
    [DllImport(Library, CallingConvention = C)]
    public static extern int glassrt_begin(IntPtr client, byte[] json, out IntPtr session);
    [DllImport(Library, CallingConvention = C)]
    public static extern void glassrt_end(IntPtr session);
    [DllImport(Library, CallingConvention = C)]
    public static extern int glassrt_memory(IntPtr session, UIntPtr bytes);
    [DllImport(Library, CallingConvention = C)]
    public static extern int glassrt_push(IntPtr session, int level, long x, long y, int width, int height,
                                          UIntPtr stride, int format, IntPtr pixels, UIntPtr length, int waitMs);
    [DllImport(Library, CallingConvention = C)]
    public static extern int glassrt_next_event(IntPtr session, int timeoutMs, out Event taken);
    [DllImport(Library, CallingConvention = C)]
    public static extern int glassrt_finish(IntPtr session, int timeoutMs, out IntPtr result);
    [DllImport(Library, CallingConvention = C)]
    public static extern int glassrt_cancel(IntPtr session);
    [DllImport(Library, CallingConvention = C)]
    public static extern void glassrt_free(IntPtr memory);

    // Texts go to C as UTF-8 with a zero at their end, and come back so.
    public static byte[] Bytes(string text) {
        return text == null ? null : Encoding.UTF8.GetBytes(text + "\0");
    }

    public static string Text(byte[] bytes) {
        int end = Array.IndexOf(bytes, (byte)0);
        return Encoding.UTF8.GetString(bytes, 0, end < 0 ? bytes.Length : end);
    }

    public static string Take(IntPtr memory, int length) {
        byte[] bytes = new byte[length];
        Marshal.Copy(memory, bytes, 0, length);
        glassrt_free(memory);
        return Encoding.UTF8.GetString(bytes);
    }
}

static class Scanner {
    static IntPtr client, session;

    class Failed : Exception {
        public Failed(string text) : base(text) {
        }
    }

    static void Check(int status, string doing) {
        if (status != GlassRT.Ok) {
            byte[] line = new byte[512];
            GlassRT.glassrt_error(client, line, (UIntPtr)line.Length);
            throw new Failed(doing + ": " + GlassRT.Text(line) + " (" + status + ")");
        }
    }

    // A thread of its own: events do not wait for pushes, nor pushes for events.
    static void PrintEvents() {
        GlassRT.Event taken;
        int status;
        while ((status = GlassRT.glassrt_next_event(session, 1000, out taken)) <= GlassRT.None) {
            if (status == GlassRT.Ok) {
                string data = GlassRT.Take(taken.Data, (int)taken.Length);
                Console.WriteLine(taken.Number + " " + GlassRT.Text(taken.Kind) + " " +
                                  data.Substring(0, Math.Min(120, data.Length)));
            }
        }
    }

    static void PushTiles(IntPtr pixels, int width, int height, int side, double rate) {
        Stopwatch clock = Stopwatch.StartNew();
        int across = (width + side - 1) / side, pushed = 0;
        for (int y = 0; y < height; y += side) {
            for (int step = 0; step < across; step++, pushed++) {
                int x = side * (y / side % 2 == 0 ? step : across - 1 - step);
                int wide = Math.Min(side, width - x), high = Math.Min(side, height - y);
                long stride = 3L * width, first = y * stride + 3L * x, length = (high - 1) * stride + 3L * wide;
                double due = rate > 0 ? pushed * 1000.0 / rate - clock.ElapsedMilliseconds : 0;
                Thread.Sleep(Math.Max(0, (int)due));
                int status;
                do {
                    status = GlassRT.glassrt_push(session, 0, x, y, wide, high, (UIntPtr)(ulong)stride, GlassRT.Rgb,
                                                  new IntPtr(pixels.ToInt64() + first), (UIntPtr)(ulong)length, 1000);
                } while (status == GlassRT.Busy);
                Check(status, "push");
            }
        }
    }

    static string Scan(Dictionary<string, string> options) {
        byte[] content = File.ReadAllBytes(options["slide"]);
        string[] head = Encoding.ASCII.GetString(content, 0, Math.Min(64, content.Length)).Split(
            new char[] {' ', '\n'}, 5);
        if (head.Length < 5 || head[0] != "P6" || head[3] != "255") {
            throw new Failed(options["slide"] + " is no picture in the format P6 with 8 bits");
        }
        int width = int.Parse(head[1]), height = int.Parse(head[2]), side = int.Parse(options["tile"]);
        if (GlassRT.glassrt_abi_version() != GlassRT.Abi) {
            throw new Failed("the library is of another version than this program");
        }
        Check(GlassRT.glassrt_connect(GlassRT.Bytes(options["address"]), GlassRT.Bytes(options["token"]), 10000,
                                      out client), "connect");
        string json = string.Format("{{\"bundle\": \"{0}\", \"levels\": [[{1}, {2}]], \"mpp\": {3}, " +
                                    "\"tile\": [{4}, {4}], \"name\": \"{5}\"}}", options["bundle"], width, height,
                                    options["mpp"], side, options["name"]);
        Check(GlassRT.glassrt_begin(client, GlassRT.Bytes(json), out session), "begin");
        GlassRT.glassrt_memory(session, (UIntPtr)(ulong)(3L * side * side)); // where refused: by the socket
        Thread events = new Thread(PrintEvents);
        events.Start();
        GCHandle pinned = GCHandle.Alloc(content, GCHandleType.Pinned);
        IntPtr result;
        try {
            IntPtr pixels = Marshal.UnsafeAddrOfPinnedArrayElement(content, content.Length - 3 * width * height);
            PushTiles(pixels, width, height, side, double.Parse(options["rate"], CultureInfo.InvariantCulture));
            Check(GlassRT.glassrt_finish(session, 120000, out result), "finish");
        } catch (Failed) {
            GlassRT.glassrt_cancel(session); // which ends the events, too
            throw;
        } finally {
            pinned.Free();
            events.Join();
        }
        int length = 0;
        while (Marshal.ReadByte(result, length) != 0) {
            length++;
        }
        return GlassRT.Take(result, length);
    }

    static int Main(string[] given) {
        var options = new Dictionary<string, string> {
            {"slide", null}, {"address", "127.0.0.1:8080"}, {"token", null}, {"bundle", "glas-glands"},
            {"name", "scan"}, {"mpp", "0.5"}, {"tile", "1024"}, {"rate", "14.3"},
        };
        for (int each = 0; each < given.Length; each++) {
            if (given[each].StartsWith("--") && each + 1 < given.Length) {
                options[given[each].Substring(2)] = given[++each];
            } else {
                options["slide"] = given[each];
            }
        }
        if (options["slide"] == null) {
            Console.Error.WriteLine("usage: Scanner.exe SLIDE.ppm [--address A] [--token T] [--bundle B] [--name N]" +
                                    " [--mpp M] [--tile SIDE] [--rate TILES_A_SECOND]");
            return 2;
        }
        try {
            Console.WriteLine(Scan(options));
            return 0;
        } catch (Failed failed) {
            Console.Error.WriteLine("scanner: " + failed.Message);
            return 1;
        } catch (IOException failed) {
            Console.Error.WriteLine("scanner: " + failed.Message);
            return 1;
        } finally {
            GlassRT.glassrt_end(session);
            GlassRT.glassrt_close(client);
        }
    }
}

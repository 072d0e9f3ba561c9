import java.io.DataInputStream;
import java.io.IOException;
import java.io.InputStream;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublisher;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse;
import java.net.http.HttpResponse.BodyHandlers;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/**
 * A scanner simulator on Java 17 alone: tiles of a picture (PPM, P6) in snake order, events, the result.
 *
 * java Scanner.java slide.ppm [--address 127.0.0.1:8080] [--token T] [--bundle glas-glands] [--name scan] [--mpp 0.5]
 *                             [--tile 1024] [--rate 14.3]
 */
public final class Scanner {
    private static final Duration LONGEST = Duration.ofSeconds(120);

    private final HttpClient client =
            HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1).connectTimeout(Duration.ofSeconds(10)).build();
    private final String server;
    private final String token;

    private Scanner(String address, String token) {
        this.server = "http://" + address;
        this.token = token;
    }

    /** What a failure says to the user. */
    private static final class Refused extends IOException {
        Refused(String text) {
            super(text);
        }
    }

    /** The answer's text; a busy server is asked again, a refusal is thrown. */
    private String ask(String method, String path, BodyPublisher body) throws IOException, InterruptedException {
        HttpRequest.Builder request =
                HttpRequest.newBuilder(URI.create(server + path)).timeout(LONGEST).method(method, body);
        if (token != null) {
            request.header("Authorization", "Bearer " + token);
        }
        while (true) {
            HttpResponse<String> answer = client.send(request.build(), BodyHandlers.ofString());
            if (answer.statusCode() == 429) {
                Thread.sleep(1000 * Long.parseLong(answer.headers().firstValue("Retry-After").orElse("1")));
            } else if (answer.statusCode() >= 400) {
                throw new Refused(method + " " + path + ": " + answer.body());
            } else {
                return answer.body();
            }
        }
    }

    /** Print the events as they are sent, up to the last one. */
    private void printEvents(String path) {
        HttpRequest.Builder request =
                HttpRequest.newBuilder(URI.create(server + path + "/events")).header("Accept", "text/event-stream");
        if (token != null) {
            request.header("Authorization", "Bearer " + token);
        }
        String number = "";
        String kind = "";
        try (var lines = client.send(request.build(), BodyHandlers.ofLines()).body()) {
            for (String line : (Iterable<String>) lines::iterator) {
                if (line.startsWith("id:")) {
                    number = line.substring(3).strip();
                } else if (line.startsWith("event:")) {
                    kind = line.substring(6).strip();
                } else if (line.startsWith("data:")) {
                    String data = line.substring(5).strip();
                    System.out.println(number + " " + kind + " " + data.substring(0, Math.min(120, data.length())));
                    if (List.of("finished", "failed", "cancelled").contains(kind)) {
                        return;
                    }
                }
            }
        } catch (IOException | InterruptedException error) {
            System.err.println("scanner: events: " + error.getMessage());
        }
    }

    /** Push the strips of a picture, every other one from right to left. */
    private void push(String path, InputStream picture, int width, int height, int side, double rate)
            throws IOException, InterruptedException {
        DataInputStream rows = new DataInputStream(picture);
        long start = System.nanoTime();
        int pushed = 0;
        for (int y = 0; y < height; y += side) {
            int high = Math.min(side, height - y);
            byte[] strip = new byte[high * width * 3];
            rows.readFully(strip);
            int across = (width + side - 1) / side;
            for (int step = 0; step < across; step++) {
                int x = side * (y / side % 2 == 0 ? step : across - 1 - step);
                int wide = Math.min(side, width - x);
                byte[] tile = new byte[high * wide * 3];
                for (int row = 0; row < high; row++) {
                    System.arraycopy(strip, (row * width + x) * 3, tile, row * wide * 3, wide * 3);
                }
                if (rate > 0) {
                    long due = start + (long) (pushed * 1e9 / rate);
                    Thread.sleep(Math.max(0, (due - System.nanoTime()) / 1_000_000));
                }
                String at = String.format("level=0&x=%d&y=%d&width=%d&height=%d&format=rgb", x, y, wide, high);
                ask("PUT", path + "/tiles?" + at, BodyPublishers.ofByteArray(tile));
                pushed++;
            }
        }
    }

    private void scan(Path slide, Map<String, String> options) throws IOException, InterruptedException {
        int side = Integer.parseInt(options.get("tile"));
        try (InputStream picture = new java.io.BufferedInputStream(Files.newInputStream(slide))) {
            List<String> head = new ArrayList<>();
            while (head.size() < 4) {
                head.add(readWord(picture));
            }
            if (!head.get(0).equals("P6") || !head.get(3).equals("255")) {
                throw new Refused(slide + " is no picture in the format P6 with 8 bits");
            }
            int width = Integer.parseInt(head.get(1));
            int height = Integer.parseInt(head.get(2));
            String begin = String.format(
                    "{\"bundle\": \"%s\", \"levels\": [[%d, %d]], \"mpp\": %s, \"tile\": [%d, %d], \"name\": \"%s\"}",
                    options.get("bundle"), width, height, options.get("mpp"), side, side, options.get("name"));
            Matcher id = Pattern.compile("\"id\"\\s*:\\s*\"([^\"]+)\"")
                    .matcher(ask("POST", "/slides", BodyPublishers.ofString(begin)));
            if (!id.find()) {
                throw new Refused("the server's answer names no session");
            }
            String path = "/slides/" + id.group(1);
            Thread events = new Thread(() -> printEvents(path));
            events.setDaemon(true);
            events.start();
            String result;
            try {
                push(path, picture, width, height, side, Double.parseDouble(options.get("rate")));
                result = ask("POST", path + "/finish", BodyPublishers.noBody());
            } catch (IOException error) {
                ask("DELETE", path, BodyPublishers.noBody()); // else the server waits for the rest
                throw error;
            }
            events.join(LONGEST.toMillis());
            System.out.println(result);
        }
    }

    private static String readWord(InputStream input) throws IOException {
        StringBuilder word = new StringBuilder();
        for (int each = input.read(); each > ' ' && word.length() < 20; each = input.read()) {
            word.append((char) each);
        }
        return word.toString();
    }

    public static void main(String[] given) throws InterruptedException {
        Map<String, String> options = new HashMap<>(Map.of("address", "127.0.0.1:8080", "bundle", "glas-glands",
                "name", "scan", "mpp", "0.5", "tile", "1024", "rate", "14.3"));
        Path slide = null;
        for (int each = 0; each < given.length; each++) {
            if (given[each].startsWith("--") && each + 1 < given.length) {
                options.put(given[each].substring(2), given[++each]);
            } else {
                slide = Path.of(given[each]);
            }
        }
        if (slide == null) {
            System.err.println("usage: java Scanner.java SLIDE.ppm [--address A] [--token T] [--bundle B] [--name N]"
                    + " [--mpp M] [--tile SIDE] [--rate TILES_A_SECOND]");
            System.exit(2);
        }
        try {
            new Scanner(options.get("address"), options.get("token")).scan(slide, options);
            System.exit(0); // whatever still listens for events
        } catch (IOException error) {
            String why = error.getMessage() == null ? error.toString() : error.getMessage();
            System.err.println("scanner: " + why);
            System.exit(1);
        }
    }
}

package smartbatch.frontend.operations;

import io.netty.buffer.Unpooled;
import io.netty.handler.codec.http.DefaultFullHttpResponse;
import io.netty.handler.codec.http.FullHttpResponse;
import io.netty.handler.codec.http.HttpHeaderNames;
import io.netty.handler.codec.http.HttpHeaders;
import io.netty.handler.codec.http.HttpResponseStatus;
import io.netty.handler.codec.http.HttpVersion;
import java.io.IOException;
import java.nio.file.DirectoryStream;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.HashMap;
import java.util.Map;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * What browsers are shown: the files of the folder `ui` beside this jar, as they were when the server started.
 *
 * <p>A path is looked up, as it was sent, among the paths of these files: nothing else can be reached.
 */
public final class Pages {
    /** Where the page's figures are, behind the token where tokens are on. */
    public static final String METRICS = "/ui/metrics";

    private static final String PAGE = "/ui/";
    /** By how a file's name ends; others are not shown. */
    private static final Map<String, String> TYPES =
            Map.of(
                    "html", "text/html; charset=utf-8",
                    "css", "text/css; charset=utf-8",
                    "js", "text/javascript; charset=utf-8",
                    "svg", "image/svg+xml",
                    "json", "application/json");
    /** Nothing from elsewhere, no script or style within a page's text, no frame around it. */
    private static final String POLICY =
            "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

    private static final Logger logger = LoggerFactory.getLogger(Pages.class);

    private final Map<String, FullHttpResponse> answers = new HashMap<>();

    /** @param hasPage whether there is more than /openapi.json. */
    public Pages(Path folder, boolean hasPage) {
        try (DirectoryStream<Path> files = Files.newDirectoryStream(folder)) {
            for (Path file : files) {
                String name = file.getFileName().toString();
                String type = TYPES.get(name.substring(name.lastIndexOf('.') + 1));
                boolean isDescription = name.equals("openapi.json");
                if (type != null && (isDescription || hasPage)) {
                    String path = isDescription ? "/" : PAGE;
                    answers.put(path + (name.equals("index.html") ? "" : name), whole(type, Files.readAllBytes(file)));
                }
            }
        } catch (IOException e) {
            logger.warn("neither a page nor /openapi.json: {}", e.toString());
        }
    }

    /** Whether there is a page at /ui/. */
    public boolean hasPage() {
        return answers.containsKey(PAGE);
    }

    /**
     * The answer to GET or HEAD; null where no file is there.
     *
     * @param path still encoded.
     */
    FullHttpResponse answer(String path, HttpHeaders asked) {
        FullHttpResponse whole = answers.get(path);
        if (whole == null) {
            return path.equals("/ui") && hasPage() ? elsewhere() : null;
        }
        String tag = whole.headers().get(HttpHeaderNames.ETAG);
        if (!tag.equals(asked.get(HttpHeaderNames.IF_NONE_MATCH))) {
            return whole.copy(); // what sends it adds headers of its own
        }
        FullHttpResponse same = empty(HttpResponseStatus.NOT_MODIFIED);
        same.headers().set(whole.headers()).remove(HttpHeaderNames.CONTENT_LENGTH);
        return same;
    }

    private static FullHttpResponse whole(String type, byte[] content) {
        FullHttpResponse answer = empty(HttpResponseStatus.OK).replace(Unpooled.wrappedBuffer(content));
        answer.headers()
                .set(HttpHeaderNames.CONTENT_TYPE, type)
                .set(HttpHeaderNames.CONTENT_LENGTH, content.length)
                .set(HttpHeaderNames.ETAG, "\"" + Integer.toHexString(Arrays.hashCode(content)) + content.length + "\"")
                .set(HttpHeaderNames.CACHE_CONTROL, "no-cache") // asked for by its tag each time
                .set("content-security-policy", POLICY)
                .set("x-content-type-options", "nosniff");
        return answer;
    }

    /** To the page, wherever a proxy has put this path. */
    private static FullHttpResponse elsewhere() {
        FullHttpResponse answer = empty(HttpResponseStatus.FOUND);
        answer.headers().set(HttpHeaderNames.LOCATION, "ui/").set(HttpHeaderNames.CONTENT_LENGTH, 0);
        return answer;
    }

    private static FullHttpResponse empty(HttpResponseStatus status) {
        return new DefaultFullHttpResponse(HttpVersion.HTTP_1_1, status, Unpooled.EMPTY_BUFFER);
    }
}

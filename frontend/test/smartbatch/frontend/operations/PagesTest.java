package smartbatch.frontend.operations;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertFalse;
import static org.junit.Assert.assertNull;
import static org.junit.Assert.assertTrue;

import io.netty.handler.codec.http.DefaultHttpHeaders;
import io.netty.handler.codec.http.FullHttpResponse;
import io.netty.handler.codec.http.HttpHeaders;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import org.junit.Before;
import org.junit.Rule;
import org.junit.Test;
import org.junit.rules.TemporaryFolder;

public class PagesTest {
    @Rule public TemporaryFolder folder = new TemporaryFolder();
    private Path ui;

    @Before
    public void aFolder() throws Exception {
        ui = folder.newFolder("ui").toPath();
        for (String name : new String[] {"index.html", "page.js", "page.css", "icon.svg", "openapi.json", "page.js~"}) {
            Files.writeString(ui.resolve(name), "of " + name);
        }
        Files.writeString(folder.getRoot().toPath().resolve("secret.html"), "secret");
    }

    private static FullHttpResponse ask(Pages pages, String path) {
        return pages.answer(path, new DefaultHttpHeaders());
    }

    private static String text(FullHttpResponse answer) {
        return answer.content().toString(StandardCharsets.UTF_8);
    }

    @Test
    public void eachFileIsAtItsPathWithItsType() {
        Pages pages = new Pages(ui, true);
        assertTrue(pages.hasPage());
        String[][] expected = {
            {"/ui/", "index.html", "text/html; charset=utf-8"},
            {"/ui/page.js", "page.js", "text/javascript; charset=utf-8"},
            {"/ui/page.css", "page.css", "text/css; charset=utf-8"},
            {"/ui/icon.svg", "icon.svg", "image/svg+xml"},
            {"/openapi.json", "openapi.json", "application/json"},
        };
        for (String[] each : expected) {
            for (int time = 0; time < 2; time++) { // the first answer uses nothing up
                FullHttpResponse answer = ask(pages, each[0]);
                assertEquals(200, answer.status().code());
                assertEquals("of " + each[1], text(answer));
                HttpHeaders headers = answer.headers();
                assertEquals(each[2], headers.get("Content-Type"));
                assertEquals(text(answer).length(), headers.getInt("Content-Length").intValue());
                assertEquals("no-cache", headers.get("Cache-Control"));
                assertEquals("nosniff", headers.get("X-Content-Type-Options"));
                assertTrue(headers.get("Content-Security-Policy").startsWith("default-src 'self';"));
                headers.set("Connection", "close");
                answer.release();
            }
            assertNull(ask(pages, each[0]).headers().get("Connection"));
        }
    }

    @Test
    public void nothingElseCanBeReached() {
        Pages pages = new Pages(ui, true);
        String[] paths = {
            "/", "/ui/index.html", "/ui/openapi.json", "/ui/page.js~", "/ui/none.js", "/ui//page.js", "/ui/./page.js",
            "/ui/../secret.html", "/ui/..%2fsecret.html", "/ui/%2e%2e/secret.html", "/secret.html", "/page.js", "/ui/page.js/"
        };
        for (String path : paths) {
            assertNull(path, ask(pages, path));
        }
    }

    @Test
    public void whoHasAFileIsToldThatItIsTheSame() {
        Pages pages = new Pages(ui, true);
        String tag = ask(pages, "/ui/page.js").headers().get("ETag");
        FullHttpResponse same = pages.answer("/ui/page.js", new DefaultHttpHeaders().set("If-None-Match", tag));
        assertEquals(304, same.status().code());
        assertEquals("", text(same));
        assertEquals(tag, same.headers().get("ETag"));
        assertNull(same.headers().get("Content-Length"));
        FullHttpResponse other = pages.answer("/ui/page.css", new DefaultHttpHeaders().set("If-None-Match", tag));
        assertEquals(200, other.status().code());
    }

    @Test
    public void thePageIsFoundWithoutItsSlashToo() {
        FullHttpResponse answer = ask(new Pages(ui, true), "/ui");
        assertEquals(302, answer.status().code());
        assertEquals("ui/", answer.headers().get("Location"));
        assertEquals("0", answer.headers().get("Content-Length"));
    }

    @Test
    public void offTakesThePageAndLeavesTheDescription() {
        Pages pages = new Pages(ui, false);
        assertFalse(pages.hasPage());
        for (String path : new String[] {"/ui", "/ui/", "/ui/page.js"}) {
            assertNull(path, ask(pages, path));
        }
        assertEquals(200, ask(pages, "/openapi.json").status().code());
    }

    @Test
    public void aJarAloneHasNeither() {
        Pages pages = new Pages(ui.resolve("none"), true);
        assertFalse(pages.hasPage());
        assertNull(ask(pages, "/ui/"));
        assertNull(ask(pages, "/openapi.json"));
    }
}

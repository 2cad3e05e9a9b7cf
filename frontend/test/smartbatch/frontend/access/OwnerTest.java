package smartbatch.frontend.access;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertNull;
import static org.junit.Assert.assertTrue;

import io.netty.buffer.Unpooled;
import io.netty.channel.embedded.EmbeddedChannel;
import io.netty.handler.codec.http.DefaultHttpContent;
import io.netty.handler.codec.http.DefaultHttpRequest;
import io.netty.handler.codec.http.FullHttpResponse;
import io.netty.handler.codec.http.HttpMethod;
import io.netty.handler.codec.http.HttpRequest;
import io.netty.handler.codec.http.HttpVersion;
import io.netty.handler.codec.http.LastHttpContent;
import java.net.InetSocketAddress;
import java.net.SocketAddress;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Map;
import org.junit.Before;
import org.junit.Rule;
import org.junit.Test;
import org.junit.rules.TemporaryFolder;

public class OwnerTest {
    private static final String HEAD = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when uid\n";
    private static final InetSocketAddress OURS = new InetSocketAddress("127.0.0.1", 0x1F91);
    private static final InetSocketAddress THEIRS = new InetSocketAddress("127.0.0.1", 0xB306);

    @Rule public TemporaryFolder folder = new TemporaryFolder();
    private Path proc;

    @Before
    public void aMachine() throws Exception {
        proc = folder.getRoot().toPath();
        Files.createDirectories(proc.resolve("self/net"));
        Files.writeString(proc.resolve("self/status"), "Name:\tjava\nUid:\t7\t1000\t7\t7\n");
        peer(1000, "4711");
    }

    /** Both ends are listed: ours belongs to another user than theirs, so that confusing them shows. */
    private void peer(int uid, String inode) throws Exception {
        String ours = "  0: 0100007F:1F91 0100007F:B306 01 00000000:00000000 00:00000000 00000000  33 0 99 1 x\n";
        String theirs = "  1: 0100007F:B306 0100007F:1F91 01 00000000:00000000 00:00000000 00000000  %d 0 %s 1 x\n";
        Files.writeString(proc.resolve("self/net/tcp"), HEAD + ours + String.format(theirs, uid, inode));
    }

    private boolean asksTokens;

    private FullHttpResponse ask(Map<String, String> environment, SocketAddress peer, String... headers) {
        Owner owner = new Owner(new Rules(proc, environment, "manage.example"), asksTokens);
        EmbeddedChannel channel =
                new EmbeddedChannel(owner) {
                    @Override
                    public SocketAddress localAddress() {
                        return OURS;
                    }

                    @Override
                    public SocketAddress remoteAddress() {
                        return peer;
                    }
                };
        HttpRequest request = new DefaultHttpRequest(HttpVersion.HTTP_1_1, HttpMethod.POST, "/models?url=x");
        for (int i = 0; i < headers.length; i += 2) {
            request.headers().add(headers[i], headers[i + 1]);
        }
        boolean passed = channel.writeInbound(request);
        channel.writeInbound(new DefaultHttpContent(Unpooled.copiedBuffer("body", StandardCharsets.UTF_8)));
        assertNull(channel.readOutbound());
        channel.writeInbound(LastHttpContent.EMPTY_LAST_CONTENT);
        FullHttpResponse answer = channel.readOutbound();
        assertEquals(passed, answer == null);
        return answer;
    }

    private String code(Map<String, String> environment, SocketAddress peer, String... headers) {
        FullHttpResponse answer = ask(environment, peer, headers);
        if (answer == null) {
            return "passed";
        }
        assertEquals(403, answer.status().code());
        return answer.content().toString(StandardCharsets.UTF_8).split("\"")[5];
    }

    @Test
    public void theServersUserAndRootPass() throws Exception {
        assertEquals("passed", code(Map.of(), THEIRS, "Host", "127.0.0.1:8081"));
        peer(0, "4711");
        assertEquals("passed", code(Map.of(), THEIRS));
    }

    @Test
    public void othersAreRefusedUnlessListed() throws Exception {
        peer(1001, "4711");
        assertEquals("not_owner", code(Map.of(), THEIRS));
        assertEquals("not_owner", code(Map.of(Rules.UIDS, "1,10010"), THEIRS));
        assertEquals("passed", code(Map.of(Rules.UIDS, "33, 1001"), THEIRS));
    }

    @Test
    public void aClosedSocketIsNobodysThoughItIsListedAsRoots() throws Exception {
        peer(0, "0");
        assertEquals("not_owner", code(Map.of(), THEIRS));
        Files.writeString(proc.resolve("self/net/tcp"), HEAD);
        assertEquals("not_owner", code(Map.of(), THEIRS));
    }

    @Test
    public void aPeerOnADualStackSocketIsFound() throws Exception {
        Files.writeString(proc.resolve("self/net/tcp"), HEAD);
        String mapped = "0000000000000000FFFF00000100007F";
        String line = "  0: %s:B306 %s:1F91 01 0:0 0:0 0 1000 0 4711 1 x\n";
        Files.writeString(proc.resolve("self/net/tcp6"), HEAD + String.format(line, mapped, mapped));
        assertEquals("passed", code(Map.of(), THEIRS));
    }

    @Test
    public void otherMachinesAreLeftToTokens() throws Exception {
        peer(1001, "4711");
        InetSocketAddress far = new InetSocketAddress("192.0.2.1", 0xB306);
        assertEquals("passed", code(Map.of(), far, "Host", "127.0.0.1"));
        assertEquals("foreign_host", code(Map.of(), far, "Host", "rebound.example"));
        asksTokens = true;
        assertEquals("passed", code(Map.of(), far, "Host", "service.example"));
        assertEquals("not_owner", code(Map.of(), THEIRS));
    }

    @Test
    public void namesAreThoseOfLoopbackTheConfiguredAndTheListed() {
        for (String host : "localhost LocalHost:8081 127.0.0.1 127.9.9.9:1 [::1]:8081 [::1]".split(" ")) {
            assertEquals(host, "passed", code(Map.of(), THEIRS, "Host", host));
        }
        assertEquals("passed", code(Map.of(), THEIRS, "Host", "manage.example:8081"));
        assertEquals("passed", code(Map.of(Rules.HOSTS, "a.example,B.example"), THEIRS, "Host", "b.example"));
        for (String host : "rebound.example:8081,127.0.0.1.example,localhost.example,,192.0.2.1".split(",")) {
            assertEquals(host, "foreign_host", code(Map.of(), THEIRS, "Host", host));
        }
        assertEquals("foreign_host", code(Map.of(), THEIRS, "Host", "localhost", "Host", "rebound.example"));
    }

    @Test
    public void pagesAreRefusedUnlessListed() {
        assertEquals("foreign_origin", code(Map.of(), THEIRS, "Origin", "https://evil.example"));
        assertEquals("foreign_origin", code(Map.of(), THEIRS, "Origin", "null"));
        assertEquals("foreign_origin", code(Map.of(), THEIRS, "Sec-Fetch-Site", "cross-site"));
        assertEquals("passed", code(Map.of(), THEIRS, "Sec-Fetch-Site", "none"));
        Map<String, String> allowed = Map.of(Rules.ORIGINS, "https://console.example");
        String[] fromThere = {"Origin", "https://console.example", "Sec-Fetch-Site", "cross-site"};
        assertEquals("passed", code(allowed, THEIRS, fromThere));
        assertEquals("foreign_origin", code(allowed, THEIRS, "Origin", "http://console.example"));
    }

    @Test
    public void whereTheSystemDoesNotTellNobodyIsRefused() throws Exception {
        Files.delete(proc.resolve("self/net/tcp"));
        assertEquals("passed", code(Map.of(), THEIRS));
        assertTrue(code(Map.of(), THEIRS, "Host", "rebound.example").equals("foreign_host"));
    }
}

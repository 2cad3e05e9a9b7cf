package smartbatch.frontend.access;

import java.io.IOException;
import java.net.InetSocketAddress;
import java.net.SocketAddress;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.Locale;
import java.util.Map;
import java.util.OptionalInt;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/** Who may manage this server: its own user, root, and what the environment adds in lists with commas between. */
public final class Rules {
    /** Names by which the management port may be called, beside loopback's. */
    static final String HOSTS = "SMARTBATCH_MANAGEMENT_HOSTS";
    /** Origins of pages that may manage, as `https://console.example`. */
    static final String ORIGINS = "SMARTBATCH_MANAGEMENT_ORIGINS";
    /** Users, by number. */
    static final String UIDS = "SMARTBATCH_MANAGEMENT_UIDS";

    private static final Logger logger = LoggerFactory.getLogger(Rules.class);

    private final PeerUid peers;
    private final Map<String, String> environment;
    private final String boundHost;
    private final boolean tellsUids;

    /**
     * @param proc the kernel's tables.
     * @param boundHost what the management port is bound to, a name or an address.
     */
    public Rules(Path proc, Map<String, String> environment, String boundHost) {
        this.environment = environment;
        this.boundHost = boundHost;
        peers = new PeerUid(proc);
        tellsUids = peers.isKnown();
        if (!tellsUids) {
            logger.warn("this system does not tell who is at the other end: every local user may manage this server");
        }
    }

    /** Whether the management port may be called by this name. */
    boolean isOurs(String name) {
        return name.equalsIgnoreCase("localhost") || name.equalsIgnoreCase(boundHost) || lists(HOSTS, name);
    }

    /** Whether one of the lists above names `entry`. */
    boolean lists(String name, String entry) {
        String list = environment.getOrDefault(name, "").toLowerCase(Locale.ROOT);
        return !entry.isEmpty() && Arrays.asList(list.split("[,\\s]+")).contains(entry.toLowerCase(Locale.ROOT));
    }

    /** Why the process at the other end of a connection may not manage; null where it may, or is on another machine. */
    String refusal(SocketAddress ours, SocketAddress theirs) {
        if (!tellsUids || !isNear(theirs)) {
            return null;
        }
        try {
            OptionalInt uid = peers.of((InetSocketAddress) ours, (InetSocketAddress) theirs);
            if (uid.isEmpty()) {
                return "a process that is gone may not manage this server";
            }
            String number = Integer.toUnsignedString(uid.getAsInt());
            boolean may = uid.getAsInt() == 0 || uid.getAsInt() == peers.own() || lists(UIDS, number);
            return may ? null : "user " + number + " may not manage this server; those in " + UIDS + " may";
        } catch (IOException e) {
            return "who asks cannot be told: " + e;
        }
    }

    /** Whether the peer is on this machine. */
    static boolean isNear(SocketAddress peer) {
        return peer instanceof InetSocketAddress inet && inet.getAddress().isLoopbackAddress();
    }
}

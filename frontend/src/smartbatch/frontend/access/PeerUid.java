package smartbatch.frontend.access;

import java.io.IOException;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.OptionalInt;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/**
 * Whose process is at the other end of a connection on this machine: Linux lists every socket with its owner.
 *
 * <pre>
 * sl local_address rem_address   st tx_queue:rx_queue tr:tm->when       retrnsmt uid timeout inode
 * 0: 0100007F:B306 0100007F:1F91 01 00000000:00000000 00:00000000 00000000 1000        0 4711
 * </pre>
 *
 * @param proc where the kernel's tables are: /proc, but in tests.
 */
final class PeerUid {
    private final Path proc;

    PeerUid(Path proc) {
        this.proc = proc;
    }

    private static final int LOCAL = 1;
    private static final int REMOTE = 2;
    private static final int UID = 7;
    private static final int INODE = 9;
    private static final Pattern EFFECTIVE = Pattern.compile("(?m)^Uid:\\s+\\d+\\s+(\\d+)");

    /** Whether this system tells at all; Linux does. */
    boolean isKnown() {
        return Files.isReadable(proc.resolve("self/net/tcp"));
    }

    /** The user that this process acts as. */
    int own() throws IOException {
        Matcher ids = EFFECTIVE.matcher(Files.readString(proc.resolve("self/status")));
        if (!ids.find()) {
            throw new IOException("no Uid in /proc/self/status");
        }
        return Integer.parseUnsignedInt(ids.group(1));
    }

    /** Empty where no process holds that end any more: a socket that was closed is listed too, as root's. */
    OptionalInt of(InetSocketAddress ours, InetSocketAddress theirs) throws IOException {
        String port = String.format(":%04X ", theirs.getPort()); // a table may have thousands of lines
        for (String table : new String[] {"self/net/tcp", "self/net/tcp6"}) {
            Path path = proc.resolve(table);
            for (String line : Files.exists(path) ? Files.readAllLines(path) : List.<String>of()) {
                if (!line.contains(port)) {
                    continue;
                }
                String[] fields = line.trim().split("\\s+");
                if (isAt(fields[LOCAL], theirs) && isAt(fields[REMOTE], ours) && !fields[INODE].equals("0")) {
                    return OptionalInt.of(Integer.parseUnsignedInt(fields[UID]));
                }
            }
        }
        return OptionalInt.empty();
    }

    /** Compare with `0100007F:1F91`: words in the machine's order, 4 or 16 bytes. */
    private static boolean isAt(String text, InetSocketAddress address) throws IOException {
        int colon = text.indexOf(':');
        if (Integer.parseInt(text.substring(colon + 1), 16) != address.getPort()) {
            return false;
        }
        ByteBuffer bytes = ByteBuffer.allocate(colon / 2).order(ByteOrder.nativeOrder());
        for (int at = 0; at < colon; at += 8) {
            bytes.putInt(Integer.parseUnsignedInt(text.substring(at, at + 8), 16));
        }
        return InetAddress.getByAddress(bytes.array()).equals(address.getAddress());
    }
}

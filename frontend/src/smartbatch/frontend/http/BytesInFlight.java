package smartbatch.frontend.http;

import java.util.concurrent.atomic.AtomicLong;

/** The bodies that the frontend holds at this moment, over all connections, and how many bytes they may have. */
public final class BytesInFlight {
    private final long limit;
    private final AtomicLong held = new AtomicLong();

    /** @param limit above 0. */
    public BytesInFlight(long limit) {
        if (limit <= 0) {
            throw new IllegalArgumentException("bytes in flight must be above 0, got " + limit);
        }
        this.limit = limit;
    }

    /** The largest body that is ever let in. */
    long most() {
        return limit / 2;
    }

    /**
     * Take room for a body, or for a further piece of it: all of it may have half of what the others leave. So large
     * bodies leave room for smaller ones, however many come.
     *
     * @param before what this body has taken already.
     * @return false where there is no room; nothing is taken then.
     */
    boolean take(long bytes, long before) {
        long now;
        do {
            now = held.get();
            if (before + bytes > (limit - (now - before)) / 2) {
                return false;
            }
        } while (!held.compareAndSet(now, now + bytes));
        return true;
    }

    void giveBack(long bytes) {
        held.addAndGet(-bytes);
    }

    public long bytesInFlight() {
        return held.get();
    }

    public long limitBytes() {
        return limit;
    }
}
